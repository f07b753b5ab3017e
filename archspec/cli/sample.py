"""`archspec sample PATH`: images from a diffusion model, texts from a language model.

PATH is a compiled checkpoint or any folder of diffusers or transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from archspec.cli.device import device_option
from archspec.cli.numbers import Finite
from archspec.diagnostics import fail

if TYPE_CHECKING:
    from archspec.runtime.store.home import Home


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("-n", "--samples", type=click.IntRange(1), default=64, show_default=True, help="How many images.")
@click.option("--classes", help="Classes to go round, by number or name: 0,3,7.  [default: all]")
@click.option(
    "--captions",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Embedded captions to go round: safetensors with caption and, by host, pooled or caption_mask.",
)
@click.option("--steps", type=click.IntRange(1), default=25, show_default=True, help="Steps of the sampler.")
@click.option("--guidance", type=Finite(1), default=1.0, show_default=True, help="Guidance scale; 1: none.")
@click.option("--size", type=click.IntRange(1), help="Side of a sample, in latent pixels.  [default: the host's own]")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed; each sample hangs on it and its number.")
@click.option("--batch", type=click.IntRange(1), default=250, show_default=True, help="Samples at a time.")
@click.option("--prompt", "prompts", multiple=True, help="Language models: text to go on from (may be repeated).")
@click.option("--tokens", type=click.IntRange(1), default=64, show_default=True, help="Language models: new tokens.")
@click.option("--temperature", type=Finite(0), default=0.0, help="Language models; 0: the likeliest token.")
@click.option("--router", type=click.Path(path_type=Path, dir_okay=False),
              help="Language models: a router of SkillPacks of PATH, by which each prompt is answered.")  # fmt: skip
@click.option("--task", help="Task of the prompts, in place of what the router would choose.")
@click.option("--columns", type=click.IntRange(1), help="Columns of the grid.")
@device_option
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), default=Path("samples.png"), help="PNG."
)
def command(path: Path, prompts: tuple[str, ...], device: str | None, **options: Any) -> None:
    """Sample from the model in PATH: a grid of images, or texts."""
    from archspec.runtime.store.home import home
    from archspec.runtime.store.opening import best_device

    place = home(path)
    if place.is_language_model:
        _texts(place, prompts, device or best_device(), options)
    elif prompts or options["router"]:
        captioned = place.is_diffusion and place.classes is None
        hint = "write --captions FILE" if captioned else "leave --prompt and --router out"
        raise fail("AS713", f"{place.architecture} takes no prompt on this way", None, hint)
    else:
        _images(place, device or best_device(), options)


def _images(place: Home, device: str, options: dict[str, Any]) -> None:
    from archspec.cli.terminal import progress_bar, quiet_libraries
    from archspec.runtime.measure.captions import read_captions
    from archspec.runtime.measure.grid import grid, save_png
    from archspec.runtime.measure.sample import Request, decode, parse_labels, sample
    from archspec.runtime.store.opening import open_model

    quiet_libraries()
    labels = parse_labels(options["classes"].split(","), place) if options["classes"] else None
    request = Request(
        options["samples"],
        options["steps"],
        options["guidance"],
        options["seed"],
        options["batch"],
        labels,
        read_captions(options["captions"], place, options["samples"]) if options["captions"] else {},
        options["size"],
    )
    model = open_model(place, device)
    with progress_bar() as progress:
        bar = progress.add_task("sampling", total=request.samples)
        drawn = sample(model, place, request, lambda done: progress.update(bar, completed=done))
    output: Path = options["output"]
    save_png(grid(decode(place, drawn), options["columns"]), output)
    click.echo(f"{request.samples} samples in {output}")


def _texts(place: Home, prompts: tuple[str, ...], device: str, options: dict[str, Any]) -> None:
    from archspec.cli.terminal import quiet_libraries
    from archspec.runtime.measure.sample import continue_texts, load_tokenizer
    from archspec.runtime.store.opening import open_model

    if not prompts:
        raise fail("AS713", "a language model goes on from a prompt", None, 'write --prompt "Once upon a time"')
    if options["task"] and not options["router"]:
        raise click.UsageError("--task is of a router: name it by --router")
    quiet_libraries()
    settings = (options["tokens"], options["seed"], options["temperature"])
    tokenizer = load_tokenizer(place)
    if options["router"] is None:
        texts = continue_texts(open_model(place, device), tokenizer, prompts, *settings)
    else:
        texts = _routed_texts(place, prompts, device, tokenizer, settings, options)
    for text in texts:
        click.echo(text)


def _routed_texts(
    place: Home,
    prompts: tuple[str, ...],
    device: str,
    tokenizer: Any,
    settings: tuple[int, int, float],
    options: dict[str, Any],
) -> list[str]:
    """Go on from each prompt by the packs that a router chooses. The base is opened in the data type that it is stored
    in, which packs are held to."""
    from functools import partial

    from archspec.host.headers import read_folder
    from archspec.runtime.measure.sample import continue_texts
    from archspec.runtime.routing.routed import routed
    from archspec.runtime.store.load import stored
    from archspec.runtime.store.opening import open_model

    model = open_model(place, device, stored(read_folder(place.model)))
    with routed(model, options["router"], tokenizer) as skills:
        generate = partial(skills.generate, tasks=options["task"]) if options["task"] else skills.generate
        return continue_texts(model, tokenizer, prompts, *settings, generate=generate)
