"""Sampling: seeds, batch sizes, guidance, schedulers; the solver is exact where the flow is straight."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from archspec.diagnostics import ArchspecError
from archspec.runtime.measure.grid import grid
from archspec.runtime.measure.sample import (
    Request,
    continue_texts,
    decode,
    first_noise,
    parse_labels,
    sample,
)
from archspec.runtime.measure.schedulers import make_scheduler
from archspec.runtime.store.home import home
from archspec.runtime.store.opening import open_model

DIGITS = Path(__file__).parents[2] / "specs" / "hosts" / "digits"


def with_scheduler(folder: Path, name: str, **config: Any) -> Path:
    shutil.copytree(DIGITS, folder)
    text = json.dumps({"_class_name": name, "num_train_timesteps": 1000} | config)
    (folder / "scheduler" / "scheduler_config.json").write_text(text)
    return folder


def test_sample_does_not_depend_on_batch_size_or_count() -> None:
    place = home(DIGITS)
    model = open_model(place)
    whole = sample(model, place, Request(samples=7, steps=3))
    assert whole.shape == (7, 1, 8, 8)
    for batch in (1, 3):
        assert torch.allclose(sample(model, place, Request(samples=7, steps=3, batch=batch)), whole, atol=1e-5)
    assert torch.allclose(sample(model, place, Request(samples=2, steps=3)), whole[:2], atol=1e-5)
    assert not torch.allclose(sample(model, place, Request(samples=2, steps=3, seed=1)), whole[:2], atol=0.1)


def test_noise_of_a_sample_hangs_on_its_number() -> None:
    noise, _ = first_noise(5, 0, 4, (1, 2, 2))
    later, _ = first_noise(5, 3, 4, (1, 2, 2))
    assert torch.equal(noise[3:], later)
    assert len({row.numpy().tobytes() for row in noise}) == 4


class Straight(nn.Module):
    """The flow towards one known image per class: v = (x_t - x) / t, whose path is straight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, hidden_states: Tensor, timestep: Tensor, class_labels: Tensor) -> tuple[Tensor]:
        goal = class_labels.to(hidden_states).reshape(-1, 1, 1, 1) / 10
        return ((hidden_states - goal) / (timestep.to(hidden_states).reshape(-1, 1, 1, 1) / 1000),)


@pytest.mark.parametrize("steps", [2, 5])
@pytest.mark.parametrize("name", [None, "FlowMatchEulerDiscreteScheduler"])
def test_euler_is_exact_on_straight_paths(steps: int, name: str | None, tmp_path: Path) -> None:
    """Both the pipeline's first-order solver and Euler end at the image, up to the whole numbers of timesteps."""
    place = home(with_scheduler(tmp_path / "p", name) if name else DIGITS)
    request = Request(samples=4, steps=steps, labels=(3,))
    found = sample(Straight(), place, request)
    assert torch.allclose(found, torch.full_like(found, 0.3), atol=5e-3)


class Linear(Straight):
    """v = c x + label of the class, so that guidance can be computed by hand."""

    def forward(self, hidden_states: Tensor, timestep: Tensor, class_labels: Tensor) -> tuple[Tensor]:
        return (class_labels.to(hidden_states).reshape(-1, 1, 1, 1).expand_as(hidden_states),)


def test_guidance_goes_beyond_the_null_label() -> None:
    """x_0 = x_1 - (null + s (label - null)) after any number of steps, from t just below 1."""
    place = home(DIGITS)
    noise, _ = first_noise(0, 0, 1, (1, 8, 8))
    for scale in (1.0, 3.0):
        found = sample(Linear(), place, Request(samples=1, steps=4, guidance=scale, labels=(2,)))
        speed = 10 + scale * (2 - 10)
        assert torch.allclose(found, noise - 0.999 * speed, atol=1e-3)


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler", "EulerDiscreteScheduler"])
def test_any_scheduler_of_diffusers(name: str, tmp_path: Path) -> None:
    """Those that draw in each step draw per sample too."""
    place = home(with_scheduler(tmp_path / "p", name, variance_type="learned_range"))
    model = open_model(place)
    whole = sample(model, place, Request(samples=4, steps=3))
    assert torch.isfinite(whole).all()
    assert torch.allclose(sample(model, place, Request(samples=4, steps=3, batch=1)), whole, atol=1e-4)


def test_a_compiled_bare_flow_host_stays_one(tiny_sana: Path, make: Callable[..., Path]) -> None:
    out = make(tiny_sana, '  - {replace: "blocks[0].attn", with: hyena_x}\n')
    for folder in (tiny_sana, out):
        assert type(make_scheduler(home(folder))).__name__ == "FlowMatchEulerDiscreteScheduler"


def test_bare_models_get_the_plain_scheduler(tiny_dit: Path, tiny_pixart: Path) -> None:
    assert type(make_scheduler(home(tiny_dit))).__name__ == "DDIMScheduler"
    for folder in (tiny_dit, tiny_pixart):
        place = home(folder)
        assert sample(open_model(place), place, Request(samples=2, steps=2, guidance=2.0)).shape == (2, 4, 8, 8)


def test_class_names_and_numbers() -> None:
    assert parse_labels(["3", " 7"], home(DIGITS)) == (3, 7)
    for word in ("10", "-1", "x"):
        with pytest.raises(ArchspecError, match="AS705"):
            parse_labels([word], home(DIGITS))


def test_language_model_is_no_painter(tiny_llama: Path) -> None:
    place = home(tiny_llama)
    with pytest.raises(ArchspecError, match="AS713"):
        sample(open_model(place), place, Request(samples=1))


def test_unknown_scheduler_is_refused(tmp_path: Path) -> None:
    for name in ("os.system", "DiTPipeline", "NoSuchScheduler"):
        with pytest.raises(ArchspecError, match="AS714"):
            make_scheduler(home(with_scheduler(tmp_path / name, name)))


def test_texts_hang_on_their_seed(tiny_llama: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(64)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w2", model_input_names=["input_ids"])
    model = open_model(home(tiny_llama))
    texts = continue_texts(model, tokenizer, ["w5 w6", "w7"], tokens=4, seed=1, temperature=1.0)
    assert texts[0].startswith("w5 w6 ")
    assert texts[1:] != continue_texts(model, tokenizer, ["w5 w6", "w7"], tokens=4, seed=2, temperature=1.0)[1:]
    assert texts == continue_texts(model, tokenizer, ["w5 w6", "w7"], tokens=4, seed=1, temperature=1.0)


def test_grid_and_pixels() -> None:
    pixels = decode(home(DIGITS), torch.linspace(-2, 2, 5).reshape(5, 1, 1, 1).expand(5, 1, 8, 8))
    assert (float(pixels.min()), float(pixels.max())) == (-1, 1)
    sheet = grid(pixels, columns=3)
    assert (sheet.mode, sheet.size) == ("L", (3 * 64 + 4, 2 * 64 + 2))
    assert [sheet.getpixel(at) for at in ((0, 0), (66, 0), (132, 0), (65, 0), (66, 66))] == [0, 0, 128, 128, 255]
