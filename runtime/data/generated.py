"""Data that the host makes itself: samples of its own for classes, or texts that go on from prompts.

`prompts` is a file of class labels or names (diffusion hosts of classes; without it, all classes in turn) or of texts
(language models); the examples go round its lines until there are `samples`. What was drawn is kept in the cache
folder under a key of all that it depends on, so that a plan's tasks draw it once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from archspec.diagnostics import fail
from archspec.host.fingerprint import SAMPLED, identity_of
from archspec.host.headers import read_folder
from archspec.plan import digest
from archspec.runtime.data.describe import describe, read_prompts, setting
from archspec.runtime.data.encoded import cache_folder
from archspec.runtime.data.examples import Arrays, Examples
from archspec.runtime.data.needs import Needs
from archspec.runtime.store.artifacts import Artifacts
from archspec.runtime.store.home import Home

SAMPLES, STEPS = 4096, 25


def open_generated(data: Mapping[str, Any], near: Path, needs: Needs) -> Examples:
    """Return the host's samples, drawn now or before."""
    host = needs.home
    if host is None:
        raise fail("AS713", "generated data needs the host, and none is at hand")
    prompts = setting(data, "prompts")
    lines = read_prompts(near / prompts) if prompts else []
    identity = digest([describe(data, near).identity, _weights(host), needs.length])
    drawn = Artifacts(cache_folder() / "generated").once(
        identity, {"kind": "generated"}, lambda: _draw(host, data, lines, needs.length)
    )
    return Arrays(drawn, identity)


def _weights(place: Home) -> str:
    return identity_of(place.config, read_folder(place.model), SAMPLED)


def _draw(place: Home, data: Mapping[str, Any], lines: list[str], length: int) -> dict[str, Tensor]:
    samples, seed = setting(data, "samples") or max(SAMPLES, len(lines)), int(setting(data, "seed", 0))
    if place.is_language_model:
        return _texts(place, lines, samples, seed, length)
    return _images(place, lines, samples, seed)


def _images(place: Home, lines: list[str], samples: int, seed: int) -> dict[str, Tensor]:
    from archspec.runtime.measure.sample import Request, parse_labels, sample
    from archspec.runtime.store.opening import best_device, open_model

    labels = parse_labels(lines, place) if lines else None
    request = Request(samples, STEPS, seed=seed, labels=labels)
    x = sample(open_model(place, best_device()), place, request)
    columns = {"x": x.contiguous()}
    if place.classes is not None:
        columns["label"] = request.labels_of(0, samples, place.classes)
    return columns


@torch.no_grad()
def _texts(place: Home, lines: list[str], samples: int, seed: int, length: int) -> dict[str, Tensor]:
    """(samples, length) tokens drawn at temperature 1 behind each prompt, one text at a time; end-of-text is no end."""
    from archspec.runtime.learn.draws import generator
    from archspec.runtime.measure.sample import load_tokenizer
    from archspec.runtime.store.opening import best_device, open_model

    if not lines:
        raise fail(
            "AS706", "a language model generates from prompts, and none are given", None, "write prompts: a file"
        )
    tokenizer, model = load_tokenizer(place), open_model(place, best_device())
    starts = [tokenizer(line, return_tensors="pt")["input_ids"][:, : length - 1] for line in lines]
    rows = []
    with torch.random.fork_rng(devices=[]):
        for i in range(samples):
            torch.manual_seed(generator(seed, "generated", i).initial_seed())
            start = starts[i % len(starts)].to(next(model.parameters()).device)
            generate: Any = model.generate
            options = {"do_sample": True, "top_k": 0, "pad_token_id": tokenizer.eos_token_id}
            rows.append(generate(start, min_length=length, max_length=length, **options)[0].cpu())
    return {"input_ids": torch.stack(rows)}
