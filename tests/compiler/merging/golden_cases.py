"""Tiny Llamas and the configurations whose merges by mergekit 0.1.5 are kept. Needs numpy, torch, safetensors."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 12,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 16,
    "tie_word_embeddings": False,
    "dtype": "float32",
}
LAYER = {
    "input_layernorm": (8,),
    "post_attention_layernorm": (8,),
    "self_attn.q_proj": (8, 8),
    "self_attn.k_proj": (4, 8),
    "self_attn.v_proj": (4, 8),
    "self_attn.o_proj": (8, 8),
    "mlp.gate_proj": (12, 8),
    "mlp.up_proj": (12, 8),
    "mlp.down_proj": (8, 12),
}
SHAPES = {
    "model.embed_tokens.weight": (12, 8),
    **{f"model.layers.{i}.{name}.weight": shape for i in range(3) for name, shape in LAYER.items()},
    "model.norm.weight": (8,),
    "lm_head.weight": (12, 8),
}


def tensors(number: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Return the weights of model `number`: 0 is the base of the others."""
    base, own = np.random.RandomState(0), np.random.RandomState(number)
    found = {}
    for name, shape in SHAPES.items():
        values = base.standard_normal(shape)
        if number:
            values = values + 0.3 * own.standard_normal(shape)
        found[name] = torch.from_numpy(values).to(dtype)
    return found


def write_models(folder: Path, dtype: torch.dtype = torch.float32) -> None:
    for number, name in enumerate(("base", "a", "b")):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(CONFIG))
        save_file(tensors(number, dtype), folder / name / "model.safetensors", {"format": "pt"})


def _case(method: str, first: str = "", second: str = "", shared: str = "", base: bool = True) -> str:
    lines = [f"merge_method: {method}"]
    lines += ["base_model: ./base"] if base else []
    lines += ["models:"]
    for name, own in (("a", first), ("b", second)):
        if method == "slerp" and name == "b":
            continue
        lines += [f"  - model: ./{name}"]
        lines += [f"    parameters: {{{own}}}"] if own else []
    lines += [f"parameters: {{{shared}}}"] if shared else []
    return "\n".join([*lines, "dtype: float32", ""])


GRADIENT = "weight: [0.0, 1.0, 0.25, 0.5]"
FILTERS = "weight: [{filter: mlp, value: 0.25}, {filter: q_proj, value: [0.1, 0.9]}, {value: 1.5}]"
CASES = {
    "linear": _case("linear", "weight: 0.3", "weight: 1.1", base=False),
    "linear-raw": _case("linear", "weight: 0.3", "weight: 1.1", "normalize: false", base=False),
    "linear-gradient": _case("linear", GRADIENT, "weight: 0.5", base=False),
    "linear-filters": _case("linear", FILTERS, "weight: 0.5", base=False),
    "task": _case("task_arithmetic", "weight: 0.7", "weight: -0.4", "lambda: 0.8"),
    "task-normalized": _case("task_arithmetic", "weight: 0.7", "weight: 0.4", "normalize: true"),
    "ties": _case("ties", "weight: 0.7, density: 0.5", "weight: 1.2, density: 0.3"),
    "ties-raw": _case("ties", "weight: 1.0", "weight: -0.6", "normalize: false, density: 0.4, lambda: 1.3"),
    "dare-linear-whole": _case("dare_linear", "weight: 0.7", "weight: 0.4", "density: 1.0"),
    "dare-ties-whole": _case("dare_ties", "weight: 0.7", "weight: 0.4", "density: 1.0"),
    "slerp": _case("slerp", shared="t: [0.2, 0.9]"),
    "slerp-filters": _case("slerp", shared="t: [{filter: self_attn, value: [0, 1]}, {value: 0.5}]"),
    "sce": _case("sce"),
    "sce-top": _case("sce", shared="select_topk: 0.4"),
    "slices-whole": """merge_method: slerp
base_model: ./base
slices:
  - sources:
      - {model: ./base, layer_range: [0, 3]}
      - {model: ./a, layer_range: [0, 3]}
parameters:
  t:
    - {filter: self_attn, value: [0, 0.5, 1]}
    - {value: 0.3}
dtype: float32
""",
    "slices-stacked": """merge_method: passthrough
slices:
  - sources: [{model: ./a, layer_range: [0, 2]}]
  - sources: [{model: ./b, layer_range: [1, 3]}]
  - sources: [{model: ./a, layer_range: [2, 3]}]
dtype: float32
""",
    "slices-mixed": """merge_method: ties
base_model: ./base
slices:
  - sources:
      - {model: ./base, layer_range: [0, 2]}
      - {model: ./a, layer_range: [1, 3], parameters: {weight: [0.2, 0.8], density: 0.5}}
      - {model: ./b, layer_range: [0, 2], parameters: {weight: 1.1}}
    parameters: {density: 0.7}
  - sources:
      - {model: ./b, layer_range: [2, 3], parameters: {weight: [0.3, 0.6]}}
      - {model: ./base, layer_range: [1, 2]}
parameters: {lambda: 0.9, density: 0.4}
dtype: float32
""",
}

HALF_MODELS = ("base", "a", "b", "c")
"""In bfloat16, deltas a tenth of the base: as differences of bfloat16 numbers they are few, so many are equal."""


def half_tensors(number: int) -> dict[str, torch.Tensor]:
    """Return the weights of model `number` in bfloat16: 0 is the base of the others."""
    base, own = np.random.RandomState(0), np.random.RandomState(number)
    found = {}
    for name, shape in SHAPES.items():
        values = 0.02 * base.standard_normal(shape)
        if number:
            values = values + 0.002 * own.standard_normal(shape)
        found[name] = torch.from_numpy(values).to(torch.bfloat16)
    return found


def write_half_models(folder: Path) -> None:
    for number, name in enumerate(HALF_MODELS):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(CONFIG | {"dtype": "bfloat16"}))
        save_file(half_tensors(number), folder / name / "model.safetensors", {"format": "pt"})


def _half_case(weight: float, density: float, scale: float) -> str:
    lines = ["merge_method: ties", "base_model: ./base", "models:"]
    lines += [
        f"  - {{model: ./{name}, parameters: {{weight: {weight}, density: {density}}}}}" for name in HALF_MODELS[1:]
    ]
    return "\n".join([*lines, f"parameters: {{lambda: {scale}}}", "dtype: bfloat16", ""])


HALF_SETTINGS = {"whole": (1.0, 1.0, 1.0), "half": (1.0, 0.5, 1.0), "weighted": (0.7, 0.3, 0.9)}
"""Case -> weight and density of each model, lambda."""
HALF_CASES = {name: _half_case(*setting) for name, setting in HALF_SETTINGS.items()}
