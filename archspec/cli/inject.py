"""`archspec inject PATH`: draw with features of donors. PATH is a spec that injects, or what one compiled to."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from archspec.cli.device import device_option
from archspec.cli.numbers import Finite
from archspec.diagnostics import fail

if TYPE_CHECKING:
    from archspec.compiler.injected import Injected
    from archspec.runtime.features.draw import Drawn, Picture
    from archspec.runtime.features.runners import Ask, Runner, Size

Given = dict[str, tuple[str, str | None]]
PICTURES = ("mask", "size", "matches", "collage", "label")
"""Parameters that a host of text has no use for."""
KEYS = {"label": "class"}


def _donors(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> Given:
    found: Given = {}
    for value in values:
        name, equals, files = value.partition("=")
        if not equals or not name.strip() or not files:
            raise click.BadParameter(f"'{value}' is not NAME=IMAGE or NAME=IMAGE:MASK")
        image, _colon, mask = files.partition(":") if not Path(files).is_file() else (files, "", "")
        found[name] = (image, mask or None)
    return found


def _size(_: click.Context, __: click.Parameter, value: str | None) -> Size | None:
    if value is None:
        return None
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", value)
    if not found:
        raise click.BadParameter(f"'{value}' is not WIDTHxHEIGHT, as 768x512")
    return int(found[2]), int(found[1])


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--prompt", help="What is drawn; of hosts that read text.")
@click.option("--class", "label", help="Class that is drawn, by number or name; of hosts of classes.")
@click.option("--donor", "donors", multiple=True, callback=_donors, metavar="NAME=IMAGE[:MASK]",
              help="A donor's picture, and the mask of its subject (white); of hosts of text, its text.")  # fmt: skip
@click.option("--member", metavar="AXIS=VALUE,...", help="Which member of the spec's matrix to draw with.")
@click.option("--mask", type=click.Path(path_type=Path, dir_okay=False), help="Mask of the target.")
@click.option("-n", "--samples", type=click.IntRange(1), default=1, show_default=True, help="How many images.")
@click.option("--size", callback=_size, metavar="WIDTHxHEIGHT", help="Pixels.  [default: the host's, else the donor's]")
@click.option("--seed", type=int, help="Seed in place of the spec's.")
@click.option("--tokens", type=click.IntRange(1), default=64, show_default=True, help="Hosts of text: new tokens.")
@click.option("--temperature", type=Finite(0), default=0.0, help="Hosts of text; 0: the likeliest token.")
@click.option("--matches", type=click.Path(path_type=Path, dir_okay=False),
              help="PNG that shows which tokens of each donor stood for which of the first image.")  # fmt: skip
@click.option(
    "--collage", type=click.Path(path_type=Path, dir_okay=False), help="PNG of the collage, where one is made."
)
@device_option
@click.option("-o", "--out", type=click.Path(path_type=Path, dir_okay=False), default=Path("injected.png"),
              show_default=True, help="PNG of the samples.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def command(path: Path, donors: Given, member: str | None, device: str | None, as_json: bool, **options: Any) -> None:
    """Draw from the host of PATH with features of donors in its attention.

    \b
    archspec inject spec.yaml --prompt "a dog in the snow" --donor dog=dog.png:dog-mask.png
    """
    from archspec.cli.terminal import progress_console, quiet_libraries
    from archspec.compiler.injected import injected

    quiet_libraries()
    job = injected(path, member, donors).with_donors(donors)
    _check_files({*job.files(path), *map(Path, filter(None, [options["mask"]]))}, options)
    with progress_console().status("opening the host") as status:
        act = _say if job.place.is_language_model else _draw
        act(job, device, options, as_json, status.update)


def _check_files(read: set[Path], options: Mapping[str, Any]) -> None:
    """Refuse to write over what is read, or twice to one file."""
    taken = {file.resolve(): "read too" for file in read}
    for name, file in ((name, options[name]) for name in ("out", "matches", "collage") if options[name]):
        if what := taken.get(file.resolve()):
            raise click.UsageError(f"--{name} '{file}' is {what}: name another file")
        taken[file.resolve()] = "written already"


def _say(job: Injected, device: str | None, options: dict[str, Any], as_json: bool, tell: Any) -> None:
    """Go on from a prompt with donors' texts in sight."""
    import torch

    from archspec.runtime.features.texts import inject_text
    from archspec.runtime.measure.sample import continue_texts, load_tokenizer
    from archspec.runtime.store.opening import best_device, open_model

    if useless := [f"--{KEYS.get(word, word)}" for word in PICTURES if options[word]]:
        raise click.UsageError(f"{', '.join(useless)}: of hosts that draw pictures")
    if options["prompt"] is None:
        hint = 'write --prompt "Once upon a time"'
        raise fail("AS764", f"{job.place.architecture} goes on from a prompt", None, hint)
    model, tokenizer = open_model(job.place, device or best_device()), load_tokenizer(job.place)
    donors = {name: torch.tensor(tokenizer(text).input_ids) for name, text in job.texts().items()}
    seed = job.injection.seed if options["seed"] is None else options["seed"]
    tell("reading donors")
    with inject_text(model, job.injection, donors):
        tell("drawing")
        prompts = [options["prompt"]] * options["samples"]
        texts = continue_texts(model, tokenizer, prompts, options["tokens"], seed, options["temperature"])
    if as_json:
        click.echo(json.dumps({"texts": texts, "donor_tokens": {n: len(ids) for n, ids in donors.items()}}, indent=2))
    else:
        click.echo("\n".join(texts))


def _draw(job: Injected, device: str | None, options: dict[str, Any], as_json: bool, tell: Any) -> None:
    from dataclasses import replace

    from PIL.Image import Image, fromarray

    from archspec.runtime.features.collages import lay
    from archspec.runtime.features.draw import draw, pixels
    from archspec.runtime.features.picture import matches
    from archspec.runtime.features.runners import open_runner
    from archspec.runtime.measure.grid import grid, save_png
    from archspec.runtime.store.opening import best_device, open_model

    if options["seed"] is not None:
        job = replace(job, injection=replace(job.injection, seed=options["seed"]))
    injection, place = job.injection, job.place
    if options["collage"] and injection.noise != "collage":
        raise click.UsageError("--collage shows what `noise: collage` makes, and the injection states another noise")
    device = device or best_device()
    pictures = _pictures(job)
    if options["matches"] and not pictures:
        raise click.UsageError("--matches shows pictures of donors, and no donor has one")
    runner = open_runner(place, lambda: open_model(place, device), device)
    ask = _ask(job, runner, pictures, options)
    laid, mask = None, None
    if options["mask"]:
        from archspec.runtime.collage import read_mask

        mask = read_mask(options["mask"], ask.size)
    if injection.noise == "collage":
        laid = lay(injection, runner, ask, pictures, job.near, tell)
        mask = laid.mask if mask is None else mask
        for finding in laid.collage.findings:
            click.echo(str(finding), err=True)
    else:
        pictures = {name: picture.sized(ask.size) for name, picture in pictures.items()}
    if mask is None and any(graft.gate.target_mask for graft in injection.grafts):
        click.echo("note: the gate asks for a mask of the target and there is none: write --mask", err=True)
    if injection.noise != "random" and options["samples"] > 1:
        click.echo(
            f"note: all samples begin with the noise of the {injection.noise}; for others, write --seed", err=True
        )
    given = laid.donors if laid else None
    drawn = draw(injection, runner, ask, pictures, options["samples"], mask, None, given, tell)
    shown = dict.fromkeys(injection.donors, laid.collage.image) if laid else {n: p.image for n, p in pictures.items()}
    found: dict[str, tuple[Path, Image]] = {"out": (options["out"], grid(drawn.images))}
    if options["collage"] and laid:
        found["collage"] = options["collage"], fromarray(laid.collage.image)
    if options["matches"]:
        found["matches"] = (
            options["matches"],
            matches(shown, pixels(drawn.images[0]), drawn.votes, drawn.grid),
        )
    for file, image in found.values():
        save_png(image, file)
    files = {name: str(file) for name, (file, _) in found.items()}
    _report(files, drawn, as_json)


def _report(files: Mapping[str, str], drawn: Drawn, as_json: bool) -> None:
    taken = {name: int(votes.sum()) for name, votes in drawn.votes.items()}
    if as_json:
        click.echo(json.dumps({"files": dict(files), "samples": len(drawn.images), "tokens_taken": taken}, indent=2))
        return
    for name, count in taken.items():
        click.echo(f"{name}: {count:,} tokens taken, over all sites and evaluations")
    for file in files.values():
        click.echo(f"wrote {file}")


def _pictures(job: Injected) -> dict[str, Picture]:
    from archspec.runtime.collage import read_mask, read_picture
    from archspec.runtime.features.draw import Picture

    found = {}
    for name, donor in job.injection.donors.items():
        if donor.image is None:
            continue
        image = read_picture(job.near / donor.image)
        mask = None if donor.mask is None else read_mask(job.near / donor.mask, (image.shape[0], image.shape[1]))
        found[name] = Picture(image, mask)
    return found


def _ask(job: Injected, runner: Runner, pictures: Mapping[str, Picture], options: dict[str, Any]) -> Ask:
    from archspec.runtime.features.runners import Ask, check_size
    from archspec.runtime.measure.sample import parse_labels

    place, injection = job.place, job.injection
    first = next(iter(pictures.values()), None)
    size = options["size"] or runner.native or (first.image.shape[:2] if first else None)
    check_size(runner, size)
    label = None
    if place.classes is None:
        if options["prompt"] is None or options["label"] is not None:
            more = " and leave out --class" if options["label"] is not None else ""
            hint = f'write --prompt "a cat in the snow"{more}'
            raise fail("AS764", f"{place.architecture} is told by a prompt, not a class", None, hint)
    elif options["label"] is None or options["prompt"] is not None:
        more = " and leave out --prompt" if options["prompt"] is not None else ""
        raise fail("AS764", f"{place.architecture} is told a class, not a prompt", None, f"write --class 3{more}")
    else:
        label = parse_labels([options["label"]], place)[0]
    return Ask(options["prompt"], label, size, injection.guidance, injection.steps, injection.seed)
