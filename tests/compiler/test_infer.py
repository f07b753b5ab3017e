"""Sites of hosts of no known family: what a run shows, and what is left open."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ElectraConfig, ElectraModel

from archspec.compiler.capture.infer import complete
from archspec.compiler.proof.prove import prove
from archspec.diagnostics import ArchspecError
from archspec.host.locate import Located, locate, structure_of
from archspec.host.structure import Port, Site, Structure
from archspec.language.spec import Base


def _site(structure: Structure, path: str) -> Site:
    found = structure.site(path)
    assert found is not None
    return found


def test_a_known_family_is_complete_as_it_is(tiny_dit: Path) -> None:
    structure = structure_of(Located(tiny_dit))
    assert complete(structure) is structure


def test_sites_of_a_vision_transformer(tiny_plain: Path) -> None:
    found = complete(structure_of(Located(tiny_plain)))
    block, attn, mlp = (_site(found, f"layers.2{part}") for part in ("", ".attention", ".mlp"))
    assert (block.slot, block.shape.width, block.shape.tokens, block.port.returns) == ("block", 32, 17, 0)
    assert (attn.slot, attn.shape.heads, attn.shape.head_dim) == ("attn", 2, 16)
    assert attn.port == Port("hidden_states", returns=2, mask="attention_mask")
    assert (mlp.slot, mlp.shape.hidden, mlp.shape.bias) == ("mlp", 64, True)
    assert mlp.teacher["up.weight"].to_json() == "layers.2.mlp.fc1.weight"
    assert mlp.teacher["down.bias"].to_json() == "layers.2.mlp.fc2.bias"
    assert _site(found, "layers.2.layernorm_after").slot == "norm"
    assert not attn.shape.causal


def test_what_is_not_certain_stays_open(tiny_plain: Path) -> None:
    found = complete(structure_of(Located(tiny_plain)))
    assert _site(found, "layers.2.mlp.fc1").shape.width == 0  # 32 to 64
    assert _site(found, "embeddings.patch_embeddings").shape.width == 0
    assert _site(found, "layers.2.attention.q_proj").slot == "module"


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=64, n_positions=64, bos_token_id=1, eos_token_id=2)
    folder = tmp_path_factory.mktemp("gpt2")
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def test_a_causal_language_model(gpt2: Path) -> None:
    found = complete(structure_of(Located(gpt2)))
    attn = _site(found, "transformer.h.1.attn")
    assert (attn.slot, attn.shape.width, attn.shape.heads) == ("attn", 32, 2)
    assert attn.shape.causal
    assert attn.shape.tokens is None
    assert attn.port.returns == 2
    assert _site(found, "transformer.h.1.mlp").slot == "mlp"


def test_edits_of_a_language_model_are_proved(gpt2: Path, compiler: object) -> None:
    assert callable(compiler)
    for edit in (
        "{replace: '\"transformer.h.*.attn\"', with: {op: hyena_x}}",
        "{replace: '\"transformer.h.1.mlp\"', with: {op: mlp, hidden: 64, activation: gelu, gated: false}}",
    ):
        done = compiler(gpt2, edit)
        assert prove(done.resolved, done.program, done.before, done.after).numbers.difference == 0.0


def test_renamed_tensors_are_refused(tmp_path: Path) -> None:
    """transformers saves a ViT under the names of old checkpoints, which are not those of its modules."""
    from transformers import ViTMSNConfig, ViTMSNModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    ViTMSNModel(ViTMSNConfig(**sizes, image_size=16)).save_pretrained(tmp_path)
    with pytest.raises(ArchspecError, match="is named after no module of ViTMSNModel") as error:
        complete(structure_of(Located(tmp_path)))
    (diagnostic,) = error.value.diagnostics
    assert diagnostic.code == "AS407"
    assert "save_original_format=False" in diagnostic.hints[0]


def test_buffers_that_older_versions_stored_are_left_out(tmp_path: Path) -> None:
    """As in every encoder that was saved before transformers 4.31."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    ElectraModel(ElectraConfig(**sizes, vocab_size=50)).save_pretrained(tmp_path, save_original_format=False)
    file = tmp_path / "model.safetensors"
    save_file(load_file(file) | {"embeddings.position_ids": torch.arange(512)[None]}, file, {"format": "pt"})
    structure = structure_of(locate(Base(from_=str(tmp_path)), tmp_path))
    assert "embeddings.position_ids" in (structure.tensors or {})
    found = complete(structure)
    assert set(structure.tensors or {}) - set(found.tensors or {}) == {"embeddings.position_ids"}
