"""docs/skillpack.md: its commands and blocks run, and the reader that it prints reads every form that there is."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from archspec.cli import main
from archspec.runtime.packs.reading import Pack, open_pack
from tests.packs import packed, tuned_from
from tests.runtime.routing.conftest import EXAMPLES, with_tokenizer

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [m.groups() for m in BLOCK.finditer((ROOT / "docs" / "skillpack.md").read_text("utf-8"))]


def test_the_commands(tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with_tokenizer(tiny_encoder, tmp_path).rename(tmp_path / "base")
    tuned_from(tiny_encoder, tmp_path / "tuned")
    spec, graft, routing = [text for kind, flags, text in BLOCKS if kind == "yaml" and flags != " calibrated"]
    (tmp_path / "short.yaml").write_text(graft, "utf-8")
    (tmp_path / "sql.yaml").write_text(spec, "utf-8")
    (tmp_path / "skills.yaml").write_text(routing, "utf-8")
    for name, lines in {**EXAMPLES, "brief": EXAMPLES["code"]}.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(lines), "utf-8")
    for line in (line for kind, _, text in BLOCKS if kind == "bash" for line in text.strip().splitlines()):
        program, *arguments = shlex.split(line)
        if program == "archspec":
            found = CliRunner().invoke(main, arguments)
            assert found.exit_code == 0, f"$ {line}\n{found.output}"
        else:
            subprocess.run([program, *arguments], check=True)
    assert (tmp_path / "out" / "sql" / "skillpacks.json").is_file()
    (python,) = [text for kind, flags, text in BLOCKS if kind == "python" and not flags]
    names: dict[str, Any] = {}
    exec(python, names)
    assert names["sql"].uses[0].pack.header.name == "sql"
    routed, given = [text for kind, flags, text in BLOCKS if kind == "python" and flags in (" routing", " given")]
    exec(routed, names)
    assert names["output"].shape[0] == 2
    assert names["skills"].router.routing.names == ("sql", "brief-sql", "chat")
    exec(given, names)
    with names["skills"] as skills:
        assert len(skills.route(["one", "two", "three"])) == 3


def test_the_calibrated_spec(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").symlink_to(tiny_llama)
    tuned_from(tiny_llama, tmp_path / "tuned")
    ids = torch.randint(0, 64, (20, 16), generator=torch.Generator().manual_seed(0)).tolist()
    (tmp_path / "tokens.jsonl").write_text("".join(json.dumps({"input_ids": row}) + "\n" for row in ids))
    (spec,) = [text for kind, flags, text in BLOCKS if flags == " calibrated"]
    (tmp_path / "sql.yaml").write_text(spec, "utf-8")
    found = CliRunner().invoke(main, ["pack", "sql.yaml", "-o", "sql.safetensors"])
    assert found.exit_code == 0, found.output
    assert "of outputs 0.0" in found.output
    shown = CliRunner().invoke(main, ["packs", "show", "sql.safetensors"])
    assert "of outputs" in shown.output


RULES = [
    "{of: norm, store: [{op: dense, dtype: BF16}]}",
    "{of: bias, store: [{op: quantize, bits: 5, group: 7}]}",
    "{of: 'blocks[0].mlp', store: [{op: prune, keep: 3%, code: gaps}, {op: prune, keep: 20%, code: mask}]}",
    "{of: 'blocks[1].mlp', store: [{op: sign, axis: tensor}, {op: svd, bands: [[2, 16], [3, 7], [9, 1]], group: 20}]}",
    "{of: 'blocks[2].mlp', store: [{op: quantize, bits: 3, axis: column, group: 10}, {op: sign}]}",
    "{of: head, store: [none]}",
]


@pytest.mark.parametrize("fixed", [True, False])
def test_the_printed_reader_reads_what_archspec_reads(tiny_encoder: Path, tmp_path: Path, fixed: bool) -> None:
    tuned = tuned_from(tiny_encoder, tmp_path / "tuned")
    rules = f"[{', '.join(RULES)}]" if fixed else "[]"
    _, path = packed(tmp_path, tiny_encoder, f"{{tuned: {tuned}, budget: 80%, rules: {rules}}}")
    pack = reads_alike(path)
    used = {term.op for change in pack.header.tensors.values() for term in change.terms}
    assert used == {"dense", "sparse", "quantized", "low_rank"} or not fixed


def test_the_printed_reader_reads_excerpts(tiny_gpt2: Path, tmp_path: Path) -> None:
    tuned = tuned_from(tiny_gpt2, tmp_path / "tuned")
    ops = ("{op: svd, rank: 3, bits: 5}", "sign", "{op: prune, keep: 10%}", "{op: quantize, bits: 3, axis: column}")
    parts = ", ".join(f"{{of: attn, weights: [{w}], store: [{op}]}}" for w, op in zip("qkvo", ops, strict=True))
    _, path = packed(tmp_path, tiny_gpt2, f"{{tuned: {tuned}, budget: 60%, rules: [{parts}]}}")
    terms = [term for change in open_pack(path).header.tensors.values() for term in change.terms]
    assert len([term for term in terms if term.op == "excerpt"]) == 3 * 4
    reads_alike(path)


def reads_alike(path: Path) -> Pack:
    """Hold the printed reader to archspec's own, and return what the latter opened."""
    (source,) = [text for _, flags, text in BLOCKS if flags == " reader"]
    reader: dict[str, Any] = {}
    exec(source, reader)
    header, found = reader["read"](path)
    pack = open_pack(path)
    assert header["name"] == "skill"
    assert found.keys() == pack.header.tensors.keys()
    for name, delta in found.items():
        wanted = pack.delta(name)
        assert delta.dtype == np.float32
        assert torch.allclose(torch.from_numpy(np.ascontiguousarray(delta)), wanted, rtol=1e-5, atol=1e-8), name
    return pack
