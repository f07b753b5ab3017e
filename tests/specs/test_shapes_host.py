"""The committed host of captions: plain diffusers loads it, padding does not matter, and it draws what it is told."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from archspec.runtime.data.shapes import pictures
from archspec.runtime.packing import places
from benchmarks.shapes_host import draw, load, read_one, scenes

HOSTS = Path(__file__).parents[2] / "specs" / "hosts"
TOKENS = 22
PAIR = "a red striped circle at the left and a blue dotted square at the right on grass"


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return load(HOSTS / "shapes")


@pytest.fixture(scope="module")
def recipe() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HOSTS)
        yield import_module("shapes_host")


def run(pipeline: Any, context: torch.Tensor, pooled: torch.Tensor, **keywords: Any) -> torch.Tensor:
    x = torch.randn(len(context), 144, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found: torch.Tensor = pipeline.transformer(
            hidden_states=x, encoder_hidden_states=context, pooled_projections=pooled,
            timestep=torch.full((len(x),), 0.7), img_ids=places(12, 12), txt_ids=torch.zeros(context.shape[1], 3),
            **keywords,
        )[0]  # fmt: skip
    return found


def test_the_plain_call_of_the_pipeline_draws(pipeline: Any) -> None:
    image = pipeline(prompt="a red circle on grass", height=48, width=48, num_inference_steps=2).images[0]
    assert image.size == (48, 48)
    assert pipeline.text_encoder_2.dtype == pipeline.transformer.dtype == torch.float32


def test_weights_are_small_and_half(pipeline: Any) -> None:
    from safetensors import safe_open

    size = sum(path.stat().st_size for path in (HOSTS / "shapes").rglob("*") if path.is_file())
    assert size < 4_000_000
    with safe_open(HOSTS / "shapes/transformer/diffusion_pytorch_model.safetensors", "pt") as file:
        assert {str(file.get_tensor(name).dtype) for name in file.keys()} == {"torch.float16"}  # noqa: SIM118


def test_text_is_what_the_recipe_draws(pipeline: Any, recipe: Any) -> None:
    """The encoders are no result of training: from their seeds, bit for bit."""
    text = import_module("shapes_text")
    for made, kept in ((text.make_t5(), pipeline.text_encoder_2), (text.make_clip(), pipeline.text_encoder)):
        assert all(torch.equal(a, b) for a, b in zip(made.parameters(), kept.parameters(), strict=True))
    ids = pipeline.tokenizer_2(PAIR).input_ids
    assert ids == text.tokenizer("$A </s>")(PAIR).input_ids
    assert pipeline.tokenizer_2.unk_token_id not in ids
    assert len(ids) + text.REACH + 1 <= text.TOKENS == TOKENS


def test_a_word_knows_its_neighbours_and_padding_is_one_token(pipeline: Any) -> None:
    short, pooled, _ = pipeline.encode_prompt([PAIR, ""], [PAIR, ""], max_sequence_length=TOKENS)
    long, same, _ = pipeline.encode_prompt([PAIR, ""], [PAIR, ""], max_sequence_length=512)
    assert torch.equal(pooled, same)
    assert torch.allclose(short, long[:, :TOKENS], atol=1e-5)
    assert torch.allclose(long[:, TOKENS - 1 :], long[:, -1:].expand(-1, 512 - TOKENS + 1, -1), atol=1e-5)
    other = pipeline.encode_prompt(PAIR.replace("red", "cyan"), None, max_sequence_length=TOKENS)[0]
    assert ((other - short[:1])[0].norm(dim=-1) > 1).tolist() == [i in range(5) for i in range(TOKENS)]


def test_one_token_stands_for_all_padding(pipeline: Any, recipe: Any) -> None:
    """What training shows is what the pipeline computes of a caption that it pads to 512 tokens."""
    short, pooled, _ = pipeline.encode_prompt([PAIR], [PAIR], max_sequence_length=TOKENS)
    long = pipeline.encode_prompt([PAIR], [PAIR], max_sequence_length=512)[0]
    bias = torch.zeros(1, 1, 1, TOKENS + 144)
    bias[..., TOKENS - 1] = torch.tensor(512 - TOKENS + 1).log()
    wanted = run(pipeline, long, pooled)
    told = run(pipeline, short, pooled, joint_attention_kwargs={"attention_mask": bias})
    assert torch.allclose(told, wanted, atol=1e-4)
    assert (run(pipeline, short, pooled) - wanted).norm() < 0.1 * wanted.norm()  # and it hardly matters
    drawn = recipe.padding(4000, torch.Generator().manual_seed(0))[:, 0, 0]
    assert not drawn[:, [*range(TOKENS - 1), *range(TOKENS, TOKENS + 144)]].any()
    counts = drawn[:, TOKENS - 1].exp().round()
    assert (counts.min(), counts.max()) == (1, 512 - TOKENS + 1)


def test_examples_are_pure_functions_of_the_step(pipeline: Any, recipe: Any) -> None:
    examples = recipe.Examples(pipeline)
    first, again, other = examples(7), examples(7), examples(8)
    assert torch.equal(first.target, again.target)
    assert torch.equal(first.inputs["encoder_hidden_states"], again.inputs["encoder_hidden_states"])
    assert not torch.equal(first.inputs["hidden_states"], other.inputs["hidden_states"])
    t = first.inputs["timestep"][:, None, None]
    clean = first.inputs["hidden_states"] - t * first.target  # x_t - t (e - x) = x
    drawn = pictures(range(7 * recipe.BATCH, 8 * recipe.BATCH)).images
    assert torch.allclose(clean, examples.flow.packing.pack(examples.latents(torch.from_numpy(drawn))), atol=1e-4)


def test_subjects_weigh_more_and_the_reader_knows_what_is_drawn(recipe: Any) -> None:
    read = import_module("shapes_read")
    drawn = pictures(range(16))
    weights = recipe.weights(torch.from_numpy(drawn.masks))
    assert weights.shape == (16, 144, 1)
    assert set(weights.unique().tolist()) == {1.0, 1.0 + recipe.WEIGHT}
    tokens = torch.from_numpy(drawn.masks.any(1)).unfold(1, 4, 4).unfold(2, 4, 4).flatten(3).flatten(1, 2)
    assert (weights[..., 0][tokens.any(-1)] > 1).all()
    labels = read.labels(drawn)
    assert labels.shape == (16, 144, 16 + read.TOLD)
    assert torch.equal(labels[..., :16], tokens.float())
    names = [name for _, names in read.KINDS for name in names]
    for scene, masks, told in zip(drawn.scenes, drawn.masks, labels[..., 16:], strict=True):
        row, column = np.argwhere(masks[0])[0] // 4
        said = {name for name, one in zip(names, told[12 * row + column], strict=True) if one}
        assert said >= {scene.subjects[0].shape, scene.subjects[0].colour, scene.subjects[0].texture}
        assert len(said) == 3 or len(scene.subjects) == 2


def test_the_reader_leaves_the_host_as_it_was(pipeline: Any, recipe: Any) -> None:
    inputs = recipe.Examples(pipeline)(3).inputs
    with torch.no_grad():
        alone = pipeline.transformer(**inputs)[0]
        taught, read = import_module("shapes_read").Reader(pipeline.transformer)(inputs)
    assert torch.equal(taught[0], alone)
    assert read.shape[:2] == (16, 144)
    assert not pipeline.transformer.single_transformer_blocks[0]._forward_hooks


def test_the_autoencoder_keeps_what_is_drawn(pipeline: Any, recipe: Any) -> None:
    """Latents of deviation one; pictures come back to within 2.5 % of white."""
    images = torch.from_numpy(pictures(range(30_000_000, 30_000_032)).images)
    latents = recipe.Examples(pipeline).latents(images)
    assert latents.shape == (32, 4, 24, 24)
    assert latents.std().item() == pytest.approx(1, abs=0.1)
    assert latents.mean().item() == pytest.approx(0, abs=0.1)
    vae = pipeline.vae
    with torch.no_grad():
        back = vae.decode(latents / vae.config.scaling_factor + vae.config.shift_factor).sample
    assert (back - images).pow(2).mean().sqrt() / 2 < 0.025


def test_a_training_that_was_killed_goes_on(recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same weights as without a kill, in either part; nothing but the pipeline is left."""
    codec = import_module("shapes_vae")
    monkeypatch.setattr(recipe, "BATCH", 2)
    monkeypatch.setattr(recipe, "STEPS", 2)
    monkeypatch.setattr(recipe, "AGAIN", 2)
    monkeypatch.setattr(codec, "BATCH", 2)
    monkeypatch.setattr(codec, "STEPS", 3)
    monkeypatch.setattr(codec, "MEASURED", 8)
    monkeypatch.setattr(import_module("training"), "SAVE_EVERY", 1)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    recipe.train_shapes(whole)
    for module in (codec, recipe):
        before = module.loss_of

        def dies(*arguments: Any, before: Any = before) -> Any:
            if arguments[-1] == 2:
                raise KeyboardInterrupt
            return before(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(module, "loss_of", dies)
            with pytest.raises(KeyboardInterrupt):
                recipe.train_shapes(killed)
    recipe.train_shapes(killed)
    for name in ("transformer/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    assert not list(killed.glob(".*"))


def test_it_draws_what_it_is_told(pipeline: Any) -> None:
    """Fewer samples and steps than the card's: of 24 captions of one subject, nearly all; textures are the hardest."""
    told = scenes(24, 1)
    drawn = draw(pipeline, [scene.caption for scene in told], steps=12, guidance=2.0)
    right = np.mean([read_one(image, scene) for image, scene in zip(drawn, told, strict=True)], axis=0)
    colour, shape, texture, place, background, _ = right.tolist()
    assert min(colour, background, place) >= 0.9
    assert texture >= 0.8  # by chance a quarter
    assert shape >= 0.75  # by chance a sixth
