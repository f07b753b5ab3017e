"""The demo's leaderboard and page, from made-up figures, and its commands; running it is `make demo`'s own test."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

DEMO = Path(__file__).parents[2] / "specs" / "demo"


@pytest.fixture(scope="module")
def demo() -> Iterator[Any]:
    sys.path.insert(0, str(DEMO))
    try:
        yield {name: import_module(name) for name in ("board", "commands", "demo", "page")}
    finally:
        sys.path.remove(str(DEMO))


def entry(demo: Any, name: str, fd: float, picture: Path, spec: str = "") -> Any:
    found = demo["demo"].Entry(name, spec, picture=picture)
    found.costs = {"result": {"params": 1_230_000, "flops": 20_000_000}}
    result = {"fd": fd, "agreement": 0.99, "paired": 0.02, "latency": 0.006}
    found.report = {"settings": {"samples": 10, "steps": 2}, "result": result, "host": {"latency": 0.004}}
    changes = [{"kind": "operator", "where": "blocks[*].mlp", "before": "mlp <4>", "after": "mlp(ratio=3)"}]
    measures = [{"name": "params", "before": 2e6, "after": 1e6, "unit": "count", "ratio": 0.5}]
    found.diff = {"changes": changes, "measures": measures}
    return found


def entries(demo: Any, folder: Path) -> list[Any]:
    picture = folder / "a.png"
    Image.new("L", (8, 8)).save(picture)
    control = ("parallel_pairs_random", 30.0, "c: 1")
    rows = [("host", 0.3, ""), ("mlp_r3", 0.9, "a: <b>"), control, ("hyena_x", 0.6, "d: 2")]
    return [entry(demo, name, fd, picture, spec) for name, fd, spec in rows]


def test_what_a_command_says(demo: Any, tmp_path: Path) -> None:
    module = demo["commands"]
    archspec = module.Commands(multiprocessing.get_context("spawn"))
    assert archspec("explain", "AS101").output.startswith("AS101")
    assert archspec("packs", "show", tmp_path / "none", fine=(0, 1)).cpu > 0
    with pytest.raises(module.Failed, match=r"archspec packs show .*\n.*AS610"):
        archspec("packs", "show", tmp_path / "none")
    archspec.stopped.set()
    with pytest.raises(module.Failed, match="stopped"):
        archspec("explain", "AS101")


def test_board_has_the_host_first_then_the_best(demo: Any, tmp_path: Path) -> None:
    found = entries(demo, tmp_path)
    assert [e.name for e in demo["board"].order(found)] == ["host", "hyena_x", "mlp_r3", "parallel_pairs_random"]
    cells = dict(zip(demo["board"].COLUMNS, demo["board"].row(found[1], found[0]).cells, strict=True))
    assert (cells["params"], cells["FLOPs"], cells["FD"], cells["x host"]) == ("1.23 M", "20.0 M", "0.900", "3.00x")
    assert cells["latency"] == "1.50x"
    assert demo["board"].row(found[0], found[0]).cells[6] == ""


def test_page_stands_alone_and_escapes(demo: Any, tmp_path: Path) -> None:
    path = demo["page"].write_page(entries(demo, tmp_path), tmp_path, 12.3)
    text = path.read_text()
    assert "http" not in text
    assert "<script" not in text
    assert text.count("data:image/png;base64,") == 4
    assert "a: &lt;b&gt;" in text
    assert "mlp &lt;4&gt;" in text
    assert "took 12 seconds" in text
    assert "$" not in text
