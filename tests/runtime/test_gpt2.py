"""GPT-2 whole: its fused, transposed maps teach closed forms, take low-rank additions, and the result generates."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import archspec
from archspec.compiler.driver import compile_spec
from archspec.runtime.execution.execute import execute, read_plan
from archspec.runtime.execution.workspace import Workspace

SPEC = """
archspec: 1
name: tiny-gpt2-grafts
base: {host}
data: {{from: texts.jsonl}}
edits:
  - replace: blocks[1].attn
    with: {{op: attention, kv_heads: 2}}
    init: {{kind: least_squares, samples: 64}}
  - replace: blocks[0:2].mlp
    with: {{op: mlp, ratio: 2}}
    init: {{kind: least_squares, samples: 64, neurons: greedy}}
finetune: {{steps: 6, batch: 8, ema: null, lora: {{rank: 2, targets: ["blocks[2:4]"]}}}}
"""


@pytest.fixture(scope="module")
def trained(tiny_gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("gpt2")
    rows = np.random.default_rng(0).integers(3, 64, (160, 16)).tolist()
    (home / "texts.jsonl").write_text("".join(json.dumps({"input_ids": row}) + "\n" for row in rows))
    (home / "spec.yaml").write_text(SPEC.format(host=tiny_gpt2))
    compile_spec(home / "spec.yaml", home / "out")
    assert execute(home / "out", device="cpu").complete
    return home / "out"


def test_closed_forms_help_and_old_maps_move_by_low_rank(trained: Path, tiny_gpt2: Path) -> None:
    from transformers import AutoModelForCausalLM

    workspace = Workspace(trained)
    for task in read_plan(trained).tasks[:3]:
        outcome = workspace.report(task.key)["outcomes"][0]
        assert outcome["after"] < outcome["before"]
    host, model = AutoModelForCausalLM.from_pretrained(tiny_gpt2), archspec.load(trained)
    old, new = host.state_dict(), model.state_dict()
    name = "transformer.h.{}.attn.c_attn.weight"
    delta = (new[name.format(2)] - old[name.format(2)]).double()
    assert int(torch.linalg.matrix_rank(delta, rtol=1e-4)) == 2
    assert torch.equal(new[name.format(0)], old[name.format(0)])
    assert new["transformer.h.0.mlp.up.weight"].shape == (64, 32)


def test_the_result_generates_in_plain_transformers(trained: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(trained).eval()
    prompt = torch.arange(3, 9)[None]
    cached, plain = (model.generate(prompt, max_new_tokens=6, do_sample=False, use_cache=u) for u in (True, False))
    assert cached.shape == (1, 12)
    assert torch.equal(cached, plain)
