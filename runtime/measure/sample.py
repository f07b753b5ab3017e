"""Sampling from a host or from what became of it.

Diffusion models are sampled with the pipeline's own scheduler (any of diffusers'), or, where a bare model has none,
with flow matching's Euler steps or DDIM. FLUX, whose config tells no size, draws 1024 x 1024 pixels unless it is asked
for another; dev is told its guidance, and by default the one that it learns at. Every sample has a seed of its own,
hashed from the request's seed and the sample's number, for its first noise and for a scheduler's later draws: so sample
17 is the same in batches of 1 and of 250, and host and result can be compared noise by noise. Guidance (2207.12598)
runs the null condition beside the wanted one. Language models go on from prompts, by transformers' own `generate`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from archspec.diagnostics import fail, nearest
from archspec.runtime.learn.draws import generator
from archspec.runtime.measure.schedulers import timed_scheduler
from archspec.runtime.model.hosts import host_class
from archspec.runtime.objectives import TRAIN_TIMES, Conditioning, conditioning, first_tensor, packing
from archspec.runtime.packing import GUIDANCE
from archspec.runtime.store.home import Home, read_json

Progress = Callable[[int], None]
FLUX_SIDE = 128
"""Of a sample of FLUX, in latent pixels, where none is asked for: its pipeline's default."""


@dataclass(frozen=True)
class Request:
    """`labels`: classes to go round (None: all of them); `texts`: what the host is told of each sample beside, as data
    has it (`caption` (samples, tokens, width), `pooled`, `caption_mask`); `size`: side of a sample, where that is not
    the host's own."""

    samples: int = 64
    steps: int = 25
    guidance: float = 1.0
    seed: int = 0
    batch: int = 250
    labels: tuple[int, ...] | None = None
    texts: Mapping[str, Tensor] = field(default_factory=dict)
    size: int | None = None

    def labels_of(self, start: int, end: int, classes: int) -> Tensor:
        chosen = self.labels or tuple(range(classes))
        return torch.tensor([chosen[i % len(chosen)] for i in range(start, end)])


def first_noise(seed: int, start: int, end: int, shape: Sequence[int]) -> tuple[Tensor, list[Generator]]:
    """Return (end - start, *shape) standard normal noise and each sample's generator, to go on drawing from."""
    generators = [generator(seed, "sample", i) for i in range(start, end)]
    return torch.stack([torch.randn(tuple(shape), generator=g) for g in generators]), generators


@torch.no_grad()
def sample(model: nn.Module, place: Home, request: Request, progress: Progress = lambda _: None) -> Tensor:
    """Return (samples, channels, height, width) on the CPU, float32: pixels in about [-1, 1], or latents."""
    if drawn_shape(place, request.size) is None:
        raise fail("AS713", f"cannot sample images from {place.architecture or 'the host'}")
    condition = conditioning(place)
    if request.guidance > 1 and condition.null is None and condition.caption is None:
        raise fail("AS713", "the host takes no condition, so there is nothing to guide it by")
    found = []
    for start in range(0, request.samples, request.batch):
        end = min(start + request.batch, request.samples)
        found.append(_batch(model, place, condition, request, start, end).float().cpu())
        progress(end)
    return torch.cat(found)


def _batch(model: nn.Module, place: Home, condition: Conditioning, request: Request, start: int, end: int) -> Tensor:
    shape = drawn_shape(place, request.size)
    assert shape is not None
    weight = next(model.parameters())
    noise, generators = first_noise(request.seed, start, end, shape)
    scheduler = timed_scheduler(place, request.steps, shape[1] * shape[2] // 4)
    x = noise.to(weight) * float(getattr(scheduler, "init_noise_sigma", 1.0))
    return denoise(scheduler, x, _predictor(model, place, condition, request, x, start), generators)


def denoise(
    scheduler: Any, x: Tensor, predict: Callable[[Tensor, Tensor], Tensor], generators: Sequence[Generator]
) -> Tensor:
    """Follow a scheduler's timesteps from `x` (samples, ...) to the end. `predict(sample, timestep)`: the host's
    answer; `generators`: one a sample, for schedulers that draw."""
    takes_generator = "generator" in inspect.signature(scheduler.step).parameters
    extra = {"generator": list(generators)} if takes_generator else {}
    scale = getattr(scheduler, "scale_model_input", lambda value, _: value)
    for t in scheduler.timesteps:
        x = scheduler.step(predict(scale(x, t), t), t, x, **extra).prev_sample.to(x.dtype)
    return x


def drawn_shape(place: Home, size: int | None = None) -> tuple[int, int, int] | None:
    """Return (channels, height, width) of a sample of a diffusion host, None where it draws none. `size`: height and
    width that are asked for. AS352 where the host cannot draw them."""
    packed, own = packing(place), place.shape if place.is_diffusion else None
    if packed is None and own is None:
        return None
    channels, side = (packed.channels // 4, FLUX_SIDE) if packed else (own or (0, 0, 0))[:2]
    if size is not None:
        check_size(place, size, 2 if packed else int(place.config.get("patch_size") or 1))
    return channels, size or side, size or side


def check_size(place: Home, size: int, patch: int) -> None:
    """Refuse a side of samples that the host's patches do not fill, or that is beyond its table of positions."""
    most = int(place.config.get("pos_embed_max_size") or 0) * patch
    if size % patch:
        hint = f"write a multiple of {patch}"
        raise fail("AS352", f"samples of {size} x {size} are no whole patches of {patch}", None, hint)
    if most and size > most:
        hint = f"write at most {most}"
        raise fail("AS352", f"samples of {size} x {size} are beyond the host's table of positions", None, hint)


def _predictor(
    model: nn.Module, place: Home, condition: Conditioning, request: Request, like: Tensor, start: int
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the guided prediction as a function of sample and timestep; a learned variance is cut off."""
    end, packed = start + len(like), packing(place)
    batch: dict[str, Any] = {"x": like}
    if condition.null is not None:
        batch["label"] = request.labels_of(start, end, condition.null).to(like.device)
    batch |= {name: value[start:end].to(like) for name, value in request.texts.items()}
    wanted = condition.apply(batch, Generator())
    nothing = replace(condition, dropout=1.0).apply(batch, Generator())
    told_it = packed is not None and packed.guided
    channels, scale = like.shape[1], 1.0 if told_it else request.guidance
    told_as = request.guidance if request.guidance > 1 else GUIDANCE

    def run(x: Tensor, t: Tensor, keywords: Mapping[str, Any]) -> Tensor:
        time = t.to(x.device).expand(len(x))
        if packed is not None:
            answer = model(**packed.keywords(x, (time / TRAIN_TIMES).to(x.dtype), keywords, told_as))
            return packed.unpack(first_tensor(answer), x.shape[2] // 2)
        return first_tensor(model(hidden_states=x, timestep=time, **keywords))[:, :channels]

    def guided(x: Tensor, t: Tensor) -> Tensor:
        if scale <= 1:
            return run(x, t, wanted)
        free = run(x, t, nothing)
        return free + scale * (run(x, t, wanted) - free)

    return guided


@torch.no_grad()
def decode(place: Home, latents: Tensor, batch: int = 16) -> Tensor:
    """Return pixels in [-1, 1]: what the VAE makes of latents; of a host that draws pixels, the samples, clamped."""
    folder = place.autoencoder
    config = read_json(folder / "config.json") if folder is not None and (folder / "config.json").is_file() else {}
    name = config.get("_class_name", "IdentityAutoencoder")
    if folder is None or name == "IdentityAutoencoder":
        return F.pixel_shuffle(latents, place.folded).clamp(-1, 1)
    cls: Any = host_class("diffusers", name)
    coder = cls.from_pretrained(folder, torch_dtype=torch.float32).eval()
    shift, scale = config.get("shift_factor") or 0.0, coder.config.scaling_factor
    parts = [coder.decode(part / scale + shift).sample for part in torch.split(latents, batch)]
    return torch.cat(parts).clamp(-1, 1)


def parse_labels(words: Sequence[str], place: Home) -> tuple[int, ...]:
    """Return labels from numbers or from the pipeline's class names."""
    if place.classes is None:
        raise fail("AS713", f"{place.architecture} takes no class")
    return tuple(_label(word.strip(), place, place.classes) for word in words)


def _label(word: str, place: Home, classes: int) -> int:
    if word in place.names:
        return place.names[word]
    if word.isdecimal() and int(word) < classes:
        return int(word)
    hints = nearest(word, place.names) or (f"classes are 0 to {classes - 1}",)
    raise fail("AS705", f"the host has no class '{word}'", None, *hints)


def load_tokenizer(place: Home) -> Any:
    """Return the tokenizer that stands beside a language model."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(place.model, local_files_only=True)
    except (OSError, ValueError) as error:
        first = str(error).partition("\n")[0]
        raise fail("AS708", f"no tokenizer in '{place.model}': {first}") from error


@torch.no_grad()
def continue_texts(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    tokens: int = 64,
    seed: int = 0,
    temperature: float = 0.0,
    generate: Callable[..., Tensor] | None = None,
) -> list[str]:
    """Return each prompt with what the model makes of it; temperature 0 takes the likeliest token. `generate(inputs,
    **options)`: in place of the model's own."""
    sampling = {"do_sample": temperature > 0} | ({"temperature": temperature} if temperature > 0 else {})
    found = []
    with torch.random.fork_rng(devices=[]):
        for i, prompt in enumerate(prompts):
            torch.manual_seed(generator(seed, "text", i).initial_seed())
            ids = tokenizer(prompt, return_tensors="pt").to(model.device)
            given = {"max_new_tokens": tokens, "pad_token_id": tokenizer.eos_token_id, **sampling}
            answer = generate(ids, **given) if generate else model.generate(**ids, **given)
            found.append(tokenizer.decode(answer[0], skip_special_tokens=True))
    return found
