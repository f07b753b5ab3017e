"""Drawing with a host: one way for pipelines of diffusers, one for hosts of classes.

A runner takes the first noise and a scheduler and gives the last latents, in the form in which the host takes them. So
an inversion is the same run with the solver inverted, and what a host is told of a prompt is what its pipeline tells it
(`Recorder`): no family's text encoding is written here a second time.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from types import TracebackType
from typing import Any, Protocol, Self

import torch
from torch import Generator, Tensor, nn

from archspec.diagnostics import fail
from archspec.runtime.features.donors import Trajectory
from archspec.runtime.features.injecting import SAMPLE, TIME, port_of
from archspec.runtime.features.match import Grid
from archspec.runtime.learn.draws import generator
from archspec.runtime.measure.sample import decode, denoise, first_noise
from archspec.runtime.measure.schedulers import make_scheduler
from archspec.runtime.model.hosts import host_class
from archspec.runtime.packing import Packing
from archspec.runtime.store.home import Home, read_json

Size = tuple[int, int]
"""(height, width), pixels"""


@dataclass(frozen=True)
class Ask:
    """What is drawn: a prompt or the number of a class, of a size in pixels."""

    prompt: str | None = None
    label: int | None = None
    size: Size | None = None
    guidance: float = 1.0
    steps: int = 25
    seed: int = 0
    """Of what schedulers draw on the way."""

    def generators(self, samples: int) -> list[Generator]:
        return [generator(self.seed, "step", i) for i in range(samples)]


class Runner(Protocol):
    """See the module's text. `scheduler`: None for the pipeline's own."""

    model: Any

    @property
    def channels(self) -> int:
        """Of its pictures: 1 or 3."""

    @property
    def native(self) -> Size | None:
        """Size that it was made for, None where any will do."""

    @property
    def token(self) -> int:
        """Pixels along the side of a token."""

    @property
    def guided_halves(self) -> bool:
        """Whether guidance puts two branches into one batch."""

    def scheduler(self) -> Any:
        """Return a fresh copy of the host's own scheduler."""

    def run(self, ask: Ask, noise: Tensor, scheduler: Any = None) -> Tensor:
        """Return the last latents (batch, ...) in the host's form."""

    def noise(self, ask: Ask, seed: int, samples: int) -> Tensor:
        """Return first noise (samples, ...) in the host's form; sample i hangs on seed and i alone."""

    def encode(self, image: Tensor) -> Tensor:
        """Return latents in the host's form of (1, channels, height, width) in [-1, 1]."""

    def decode(self, latents: Tensor, size: Size | None) -> Tensor:
        """Return (batch, channels, height, width) in [-1, 1]."""

    def grid(self, latents: Tensor, size: Size | None) -> Grid:
        """Return the (rows, columns) of tokens that latents are cut into."""


def check_size(runner: Runner, size: Size | None) -> None:
    """Refuse pictures that are no whole tokens. AS352."""
    if size is not None and any(side % runner.token for side in size):
        message = f"pictures of {size[1]} x {size[0]} are no whole tokens of {runner.token} pixels"
        raise fail(
            "AS352",
            message,
            None,
            f"write multiples of {runner.token}, as `--size {8 * runner.token}x{8 * runner.token}`",
        )


class Recorder(AbstractContextManager["Recorder"]):
    """Notes what a model is given while it is entered: latents by time, and the condition of the last row."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.port = model, port_of(model)
        self.trajectory = Trajectory()
        self.condition: dict[str, Tensor] = {}
        self._signature = inspect.signature(model.forward)
        self._handle: Any = None

    def __enter__(self) -> Self:
        self._handle = self.model.register_forward_pre_hook(self._note, with_kwargs=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.remove()

    def _note(self, _: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        given = self._signature.bind(*args, **keywords).arguments
        sample: Tensor = given[SAMPLE]
        time = float(torch.as_tensor(given[TIME]).flatten()[-1]) / self.port.times
        self.trajectory.record(time, sample[-1:].clone())
        self.condition = {
            key: value[-1:].clone()
            for key, value in given.items()
            if isinstance(value, Tensor)
            and key not in {SAMPLE, TIME, *self.port.unbatched}
            and len(value) == len(sample)
        }


@dataclass
class PipelineRunner:
    """A pipeline that takes `latents` and a prompt: FLUX's, SD3's, PixArt's."""

    pipe: Any
    model: Any = field(init=False)

    def __post_init__(self) -> None:
        self.model = self.pipe.transformer
        self._takes = inspect.signature(self.pipe.__call__).parameters
        self.pipe.set_progress_bar_config(disable=True)

    @property
    def guided_halves(self) -> bool:
        return "true_cfg_scale" not in self._takes

    @property
    def channels(self) -> int:
        return int(getattr(self.pipe.vae.config, "in_channels", 3))

    @property
    def native(self) -> Size | None:
        if self.packing:
            return None
        side = int(self.model.config.sample_size) * self.pipe.vae_scale_factor
        return side, side

    @property
    def token(self) -> int:
        return int(self.pipe.vae_scale_factor) * (2 if self.packing else int(self.model.config.patch_size))

    @property
    def packing(self) -> Packing | None:
        packed = hasattr(self.pipe, "_pack_latents")
        return Packing(self.model.config.in_channels) if packed else None

    def scheduler(self) -> Any:
        return type(self.pipe.scheduler).from_config(self.pipe.scheduler.config)

    def run(self, ask: Ask, noise: Tensor, scheduler: Any = None) -> Tensor:
        own, self.pipe.scheduler = self.pipe.scheduler, scheduler or self.scheduler()
        try:
            found: Tensor = self.pipe(**self._keywords(ask, noise)).images
        finally:
            self.pipe.scheduler = own
        return found

    def _keywords(self, ask: Ask, noise: Tensor) -> dict[str, Any]:
        size = {} if ask.size is None else {"height": ask.size[0], "width": ask.size[1]}
        told = {"guidance_scale": ask.guidance}
        if not self.guided_halves:
            own = getattr(self.model.config, "guidance_embeds", False)
            told = told if own else {"true_cfg_scale": ask.guidance, "guidance_scale": 1.0}
            told |= {} if own or ask.guidance <= 1 else {"negative_prompt": [""] * len(noise)}  # type: ignore[dict-item]
        more: dict[str, Any] = {"use_resolution_binning": False} if "use_resolution_binning" in self._takes else {}
        if "max_sequence_length" in self._takes:
            more["max_sequence_length"] = self._longest()
        if "generator" in self._takes:
            more["generator"] = ask.generators(len(noise))
        return {
            "prompt": [ask.prompt or ""] * len(noise),
            "latents": noise.to(self.model.dtype),
            "num_inference_steps": ask.steps,
            "output_type": "latent",
            **told,
            **size,
            **more,
        }

    def _size(self, size: Size | None) -> Size:
        return size or (self.pipe.default_sample_size * self.pipe.vae_scale_factor,) * 2

    def grid(self, latents: Tensor, size: Size | None) -> Grid:
        if self.packing is None:
            return patches(self.model, latents)
        height, width = self._size(size)
        return height // self.token, width // self.token

    def _longest(self) -> int:
        """Return how many tokens a prompt is padded to: the pipeline's default, at most what its tokenizers read."""
        parts = self.pipe.components.items()
        read = [int(part.model_max_length) for name, part in parts if "tokenizer" in name and part is not None]
        longest: int = self._takes["max_sequence_length"].default
        return min(longest, max(read)) if read else longest

    def noise(self, ask: Ask, seed: int, samples: int) -> Tensor:
        channels = self.model.config.in_channels // (4 if self.packing else 1)
        factor = self.pipe.vae_scale_factor
        height, width = self._size(ask.size)
        shape = (channels, height // factor, width // factor)
        drawn, _ = first_noise(seed, 0, samples, shape)
        return self.packing.pack(drawn) if self.packing else drawn

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        vae = self.pipe.vae
        latents = vae.encode(image.to(vae.device, vae.dtype)).latent_dist.mode()
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        latents = (latents - shift) * vae.config.scaling_factor
        return self.packing.pack(latents) if self.packing else latents

    @torch.no_grad()
    def decode(self, latents: Tensor, size: Size | None) -> Tensor:
        vae = self.pipe.vae
        if self.packing:
            latents = self.pipe._unpack_latents(latents, *self._size(size), self.pipe.vae_scale_factor)
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        found: Tensor = vae.decode((latents / vae.config.scaling_factor + shift).to(vae.dtype)).sample
        return found.clamp(-1, 1)


@dataclass
class ClassRunner:
    """A host of classes (DiT): its pipeline takes no latents, so the loop is here, with both branches in one batch."""

    place: Home
    model: Any
    guided_halves: bool = True

    @cached_property
    def coder(self) -> Any:
        """The autoencoder, None of a host that draws pixels."""
        folder = self.place.autoencoder
        name = str(read_json(folder / "config.json").get("_class_name")) if folder else "IdentityAutoencoder"
        if name == "IdentityAutoencoder":
            return None
        cls: Any = host_class("diffusers", name)
        return cls.from_pretrained(folder, torch_dtype=torch.float32).eval()

    @property
    def shape(self) -> tuple[int, int, int]:
        assert self.place.shape is not None
        return self.place.shape

    @property
    def channels(self) -> int:
        return self.shape[0] if self.coder is None else int(self.coder.config.in_channels)

    @property
    def scale(self) -> int:
        """Pixels of a latent: an autoencoder halves pictures once between two of its blocks."""
        blocks = () if self.coder is None else self.coder.config.block_out_channels
        return int(2 ** max(len(blocks) - 1, 0))

    @property
    def native(self) -> Size:
        return self.scale * self.shape[1], self.scale * self.shape[2]

    @property
    def token(self) -> int:
        return self.scale * int(self.model.config.patch_size)

    def scheduler(self) -> Any:
        return make_scheduler(self.place)

    @torch.no_grad()
    def run(self, ask: Ask, noise: Tensor, scheduler: Any = None) -> Tensor:
        scheduler = scheduler or self.scheduler()
        scheduler.set_timesteps(ask.steps)
        x, guided, null = noise.to(next(self.model.parameters())), ask.guidance > 1, self.place.classes
        told = [null if ask.label is None else ask.label]
        labels = torch.tensor([null, *told] if guided else told, device=x.device).repeat_interleave(len(x))

        def predict(x: Tensor, t: Tensor) -> Tensor:
            both = torch.cat([x, x]) if guided else x
            time = t.to(x.device).expand(len(both))
            answer = self.model(hidden_states=both, timestep=time, class_labels=labels, return_dict=False)[0]
            answer = answer[:, : x.shape[1]]
            if not guided:
                return answer  # type: ignore[no-any-return]
            free, wanted = answer.chunk(2)
            return free + ask.guidance * (wanted - free)  # type: ignore[no-any-return]

        return denoise(scheduler, x, predict, ask.generators(len(x)))

    def noise(self, ask: Ask, seed: int, samples: int) -> Tensor:
        return first_noise(seed, 0, samples, self.shape)[0]

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        if self.coder is None:
            return image
        found: Tensor = self.coder.encode(image).latent_dist.mode() * self.coder.config.scaling_factor
        return found

    def decode(self, latents: Tensor, size: Size | None) -> Tensor:
        return decode(self.place, latents)

    def grid(self, latents: Tensor, size: Size | None) -> Grid:
        return patches(self.model, latents)


def patches(model: Any, latents: Tensor) -> Grid:
    """Return the (rows, columns) of patches of latents (batch, channels, height, width)."""
    patch = int(model.config.patch_size)
    return latents.shape[-2] // patch, latents.shape[-1] // patch


def open_runner(place: Home, model: Callable[[], nn.Module], device: str = "cpu") -> Runner:
    """Return the way to draw with a host. AS764 where there is none."""
    if place.is_class_conditional:
        return ClassRunner(place, model())
    if place.pipeline is None:
        hint = "name the folder of the pipeline: transformer, text encoders, autoencoder, scheduler"
        raise fail("AS764", f"{place.architecture} stands alone: nothing encodes a prompt", None, hint)
    from diffusers import DiffusionPipeline

    try:
        pipe: Any = DiffusionPipeline.from_pretrained(place.pipeline, local_files_only=True)
    except (OSError, ValueError, RuntimeError, AttributeError) as error:
        first = str(error).partition("\n")[0]
        raise fail("AS764", f"diffusers cannot load the pipeline '{place.pipeline}': {first}") from error
    if "latents" not in inspect.signature(pipe.__call__).parameters or not hasattr(pipe, "transformer"):
        raise fail("AS764", f"{type(pipe).__name__} takes no latents")
    return PipelineRunner(pipe.to(device))
