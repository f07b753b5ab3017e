"""Probes: figures against their definitions, files that rank, and files that are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from archspec.diagnostics import ArchspecError
from archspec.host.locate import Located, structure_of
from archspec.host.probes import with_probe
from archspec.host.structure import Probe, Structure
from archspec.language.selectors import parse_selector, select
from archspec.runtime.families import family
from archspec.runtime.probing import locality
from archspec.runtime.probing.locality import band_mass
from archspec.runtime.probing.measures import parse_measures
from archspec.runtime.probing.probe import Settings, measure, write
from archspec.runtime.store.home import home
from archspec.runtime.store.opening import open_model


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def dense(query: Tensor, key: Tensor, band: int, allowed: Tensor | None = None) -> Tensor:
    """The definition: 1/N sum_ij A_ij B_ij, mean over heads."""
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    scores = query.double() @ key.double().transpose(2, 3) / query.shape[-1] ** 0.5
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    places = torch.arange(query.shape[2])
    near = (places[:, None] - places).abs() <= band
    mass: Tensor = (scores.softmax(-1) * near).sum((2, 3)).mean(1) / query.shape[2]
    return mass


@pytest.mark.parametrize("rows", [1, 1 << 22])
def test_band_mass_is_its_definition(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locality, "ROWS", rows)
    query, key = draw(2, 4, 20, 8), draw(2, 2, 20, 8, seed=1)
    causal = torch.ones(20, 20).tril().bool()
    padded = torch.arange(20) < torch.tensor([13, 20])[:, None, None, None]
    for mask, is_causal, allowed in ((None, False, None), (None, True, causal), (padded, False, padded)):
        found = band_mass(query, key, (0, 3, 19), mask, is_causal)
        wanted = torch.stack([dense(query, key, band, allowed) for band in (0, 3, 19)], 1)
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-6)
    torch.testing.assert_close(found[:, 2], torch.ones(2))


class Feed:
    """Fixed inputs of a tiny host."""

    batch = 3

    def __init__(self, host: Any, folder: Path, name: str) -> None:
        self.host, self.config, self.family = host, home(folder).config, family(name)

    def batches(self, count: int) -> Any:
        for start in range(0, count, 3):
            yield start, self.family.example(self.host, batch=3, seed=start)


def probed(folder: Path, name: str, *texts: str) -> tuple[Structure, dict[str, dict[str, dict[str, float]]], Any, Feed]:
    host, structure = open_model(home(folder)), structure_of(Located(folder))
    feed: Any = Feed(host, folder, name)
    return structure, measure(host, structure, feed, parse_measures(texts), 6), host, feed


@pytest.mark.parametrize("name", ["dit", "pixart", "llama", "qwen3", "gpt2", "bert", "vit"])
def test_every_family_shows_locality_and_influence(name: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(f"tiny_{name}")
    structure, found, host, feed = probed(folder, name, "locality(k=2)", "influence", "largest")
    attn = [site.path for site in structure.sites if site.slot == "attn"]
    blocks = [site.path for site in structure.sites if site.slot == "block"]
    assert list(found["locality(k=2)"]) == attn
    assert list(found["influence"]) == blocks
    assert all(0 < figure["mean"] <= 1 for figure in found["locality(k=2)"].values())
    seen: list[tuple[Tensor, Tensor]] = []
    block = host.get_submodule(blocks[1])
    handle = block.register_forward_hook(lambda _, args, y: seen.append((args[0], y[0] if isinstance(y, tuple) else y)))
    with torch.no_grad():
        for _, keywords in feed.batches(6):
            host(**keywords)
    handle.remove()
    cosines = [torch.nn.functional.cosine_similarity(x, y, dim=-1).mean(1) for x, y in seen]
    assert found["influence"][blocks[1]]["mean"] == pytest.approx(1 - float(torch.cat(cosines).mean()), abs=1e-6)
    assert found["largest"][blocks[1]]["mean"] == pytest.approx(
        float(torch.cat([y.abs().flatten(1).amax(1) for _, y in seen]).mean()), rel=1e-6
    )


def test_a_watched_host_is_left_as_it_was(tiny_dit: Path) -> None:
    _, _, host, _ = probed(tiny_dit, "dit", "influence")
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in host.modules())


Ranked = Callable[..., list[str]]


@pytest.fixture
def ranked(tiny_dit: Path) -> Ranked:
    structure = structure_of(Located(tiny_dit))
    paths = [site.path for site in structure.sites if site.slot == "attn"]
    probe = Probe("p.json", "", {"locality(k=2)": dict(zip(paths, (0.5, 0.7, 0.5, 0.1), strict=True))})
    known = replace(structure, probe=probe)
    return lambda text: [site.name for site in select(parse_selector(text), known)]


def test_ranks_take_the_most_and_the_least_and_of_equals_the_first(ranked: Ranked) -> None:
    assert ranked("top 2 of blocks.attn by locality(k=2)") == ["blocks[0].attn", "blocks[1].attn"]
    assert ranked("bottom 2 of blocks.attn by locality(k=2)") == ["blocks[0].attn", "blocks[3].attn"]
    assert ranked("bottom 1 of blocks[1:3].attn by locality(k=2) | blocks[0].mlp") == [
        "blocks[0].mlp",
        "blocks[2].attn",
    ]


def test_a_file_ranks_its_host_and_no_other(tiny_dit: Path, tiny_pixart: Path, tmp_path: Path) -> None:
    structure, found, _, _ = probed(tiny_dit, "dit", "locality(k=2)", "influence")
    settings = Settings({"from": "digits"}, 6)
    first, again = (write(tmp_path / name, structure, settings, found) for name in ("a.json", "b.json"))
    assert first == again
    known = with_probe(structure, "a.json", tmp_path)
    assert known.probe is not None
    least = min(found["influence"], key=lambda path: found["influence"][path]["mean"])
    chosen = select(parse_selector("bottom 1 of blocks by influence"), known)
    assert [site.path for site in chosen] == [least]

    def refused(content: Any, host: Structure) -> str:
        (tmp_path / "c.json").write_text(json.dumps(content))
        with pytest.raises(ArchspecError) as caught:
            with_probe(host, "c.json", tmp_path)
        return caught.value.diagnostics[0].code

    assert refused(first, structure_of(Located(tiny_pixart))) == "AS661"
    assert refused({**first, "host": {**first["host"], "fingerprint": "xxh3-sampled:0"}}, structure) == "AS661"
    assert refused({**first, "measures": {"influence": {"nowhere": {"mean": 1.0}}}}, structure) == "AS661"
    assert refused({**first, "measures": {"influence": {"transformer_blocks.0": {"mean": True}}}}, structure) == "AS660"
    assert refused({**first, "format": 2}, structure) == "AS660"


def test_measures_are_named_as_selectors_name_them() -> None:
    assert [a.name for a in parse_measures(["locality", " locality( k = 8 )", "influence", "locality(k=32)"])] == [
        "locality(k=32)",
        "locality(k=8)",
        "influence",
    ]
    for text in ("nearness", "locality(q=1)", "locality(k=-1)", "influence(k=1)", "locality(k=1"):
        with pytest.raises(ArchspecError) as caught:
            parse_measures([text])
        assert caught.value.diagnostics[0].code == "AS735"


def test_attention_by_other_means_is_no_silence(tiny_llama: Path) -> None:
    host, structure = open_model(home(tiny_llama)), structure_of(Located(tiny_llama))
    host.config._attn_implementation = "eager"  # type: ignore[union-attr]
    with pytest.raises(ArchspecError, match="was seen at no site"):
        measure(host, structure, Feed(host, tiny_llama, "llama"), parse_measures(["locality"]), 3)  # type: ignore[arg-type]
