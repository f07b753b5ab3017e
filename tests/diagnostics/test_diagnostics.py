"""Wrong specs and what is said of them: the Markdown files of this folder are the tests.

A `##` section is a case. Its first fence (yaml or arch) is the spec; fences that say `file=NAME` are files beside it.
Comments in the spec say what is expected, on the line where it is shown:

    # error: AS250 @14 "replaced twice"        code, column, part of the message
    # error: AS105 @3:1 "tab"                  another line (where a comment cannot stand)
    # error: AS806 "no spec"                   without a place

Nothing else may be found. The `text` fence is the report as people see it; ARCHSPEC_UPDATE=1 rewrites it. Hosts are
those of `HOSTS`: configs without weights.
"""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from archspec.diagnostics import Diagnostic
from archspec.render import render
from archspec.semantics.validate import validate

HERE = Path(__file__).parent
FENCE = re.compile(r"^```(yaml|arch|text|json)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXPECTED = re.compile(r'# (error|warning|note): (AS\d{3})(?: @(?:(\d+):)?(\d+))? "([^\n]*)"')
UPDATE = bool(os.environ.get("ARCHSPEC_UPDATE"))

HOSTS = {
    "dit": {
        "_class_name": "DiTTransformer2DModel",
        "num_attention_heads": 4,
        "attention_head_dim": 16,
        "in_channels": 1,
        "out_channels": 1,
        "num_layers": 6,
        "sample_size": 8,
        "patch_size": 1,
        "num_embeds_ada_norm": 10,
    },
    "pixart": {
        "_class_name": "PixArtTransformer2DModel",
        "num_attention_heads": 4,
        "attention_head_dim": 16,
        "in_channels": 4,
        "out_channels": 8,
        "num_layers": 4,
        "sample_size": 8,
        "cross_attention_dim": 64,
        "caption_channels": 32,
        "use_additional_conditions": False,
    },
    "sd3": {
        "_class_name": "SD3Transformer2DModel",
        "num_attention_heads": 4,
        "attention_head_dim": 16,
        "num_layers": 4,
        "sample_size": 8,
        "joint_attention_dim": 32,
        "caption_projection_dim": 64,
        "pooled_projection_dim": 32,
        "dual_attention_layers": [0],
    },
    "flux": {
        "_class_name": "FluxTransformer2DModel",
        "num_attention_heads": 4,
        "attention_head_dim": 16,
        "num_layers": 2,
        "num_single_layers": 3,
        "joint_attention_dim": 32,
        "pooled_projection_dim": 32,
        "axes_dims_rope": [4, 6, 6],
    },
    "sana": {"_class_name": "SanaTransformer2DModel", "num_layers": 2, "sample_size": 8},
    "llama": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 256,
    },
    "bert": {"architectures": ["BertModel"], "model_type": "bert", "hidden_size": 64, "num_attention_heads": 4},
    "vit": {"architectures": ["ViTForImageClassification"], "model_type": "vit", "num_hidden_layers": 4},
}


@dataclass(frozen=True)
class Case:
    page: Path
    title: str
    text: str
    """The section, heading left out."""

    @property
    def spec(self) -> tuple[str, str]:
        kind, _, body = next(f for f in FENCE.findall(self.text) if f[0] in ("yaml", "arch") and not f[1])
        return f"spec.{kind}", body

    @property
    def files(self) -> dict[str, str]:
        return {name: body for _, name, body in FENCE.findall(self.text) if name}

    @property
    def snapshot(self) -> str | None:
        return next((body for kind, name, body in FENCE.findall(self.text) if kind == "text" and not name), None)


def cases() -> Iterator[Case]:
    for page in sorted(HERE.glob("*.md")):
        for section in page.read_text(encoding="utf-8").split("\n## ")[1:]:
            title, _, text = section.partition("\n")
            yield Case(page, title, text)


def found(case: Case, folder: Path) -> tuple[Diagnostic, ...]:
    """Write the files of a case and validate its spec; the current folder is its home."""
    for name, config in HOSTS.items():
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config))
    for name, body in case.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(body.removesuffix("\n") if name.endswith(".json") else body, encoding="utf-8")
    name, body = case.spec
    (folder / name).write_text(body, encoding="utf-8")
    return validate(name)


def wanted(case: Case) -> list[tuple[str, str, int | None, int | None, str]]:
    """Return (severity, code, line, column, part of the message) of every comment."""
    out = []
    for number, line in enumerate(case.spec[1].splitlines(), 1):
        for severity, code, other, column, part in EXPECTED.findall(line):
            at = (int(other) if other else number, int(column)) if column else (None, None)
            out.append((severity, code, *at, part))
    return out


def matches(diagnostic: Diagnostic, expected: tuple[str, str, int | None, int | None, str]) -> bool:
    severity, code, line, column, part = expected
    if (diagnostic.severity, diagnostic.code) != (severity, code) or part not in diagnostic.message:
        return False
    span = diagnostic.primary.span if diagnostic.primary else None
    return line is None or (span is not None and (span.line, span.column) == (line, column))


def update(case: Case, report: str) -> None:
    """Write the report into the case's section of its page."""
    fence = f"```text\n{report}\n```"
    old = next((m for m in FENCE.finditer(case.text) if m[1] == "text" and not m[2]), None)
    new = case.text[: old.start()] + fence + case.text[old.end() :] if old else f"{case.text.rstrip()}\n\n{fence}\n"
    page = case.page.read_text(encoding="utf-8")
    case.page.write_text(page.replace(f"\n## {case.title}\n{case.text}", f"\n## {case.title}\n{new}"), encoding="utf-8")


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: f"{case.page.stem}: {case.title}")
def test_case(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    diagnostics = found(case, tmp_path)
    report = render(diagnostics)
    expected = wanted(case)
    assert expected, "a case says what it expects"
    assert [e for e in expected if not any(matches(d, e) for d in diagnostics)] == [], report
    assert [str(d) for d in diagnostics if not any(matches(d, e) for e in expected)] == []
    assert len(diagnostics) == len(expected), report
    if UPDATE and case.snapshot != f"{report}\n":
        update(case, report)
    else:
        assert case.snapshot == f"{report}\n", "run with ARCHSPEC_UPDATE=1 and read the diff"


def test_titles_are_unique() -> None:
    names = [(case.page, case.title) for case in cases()]
    assert len(names) == len(set(names))
    assert len(names) >= 40
