"""The reproduction of the digits results: its specs, its count of images, its verdicts."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from archspec.language.parse import load
from archspec.runtime.execution.images import images_of


def task(kind: str, wave: int = 0, **settings: Any) -> SimpleNamespace:
    return SimpleNamespace(kind=kind, id=f"{kind}/{wave}", wave=wave, settings=settings)


def test_every_claim_has_its_specs_with_every_seed_set(script: ModuleType, tmp_path: Path) -> None:
    for claim in script.CLAIMS:
        for name in (claim.spec, *claim.controls.values()):
            found: Any = load(script.seeded(name, 7, tmp_path))
            assert found.name.endswith("-7")
            stages = [stage for stage in (found.distill, found.finetune, found.eval) if stage is not None]
            assert [edit.init.seed for edit in found.edits] + [s.seed for s in stages] == [7] * (1 + len(stages))


def test_control_differs_in_the_start_alone(script: ModuleType, tmp_path: Path) -> None:
    for claim in script.CLAIMS:
        specs: list[Any] = [load(script.seeded(name, 0, tmp_path)) for name in (claim.spec, claim.control)]
        mine, control = specs
        assert [e.init.kind for e in control.edits] == ["random"] != [e.init.kind for e in mine.edits]
        assert [getattr(e, "with_", None) for e in control.edits] == [getattr(e, "with_", None) for e in mine.edits]
        assert (control.distill, control.finetune, control.eval) == (None, mine.finetune, mine.eval)


def test_images_are_counted_pass_by_pass() -> None:
    together = [task("fit", samples=1024), task("fit", samples=1024)]
    assert images_of(together, 143) == 1024 + 2 * 143
    in_turn = [task("fit", wave, samples=512) for wave in range(3)]
    assert images_of(in_turn, 143) == 3 * (512 + 2 * 143)
    assert images_of([task("fit", samples=100, passes=2)], 143) == 2 * 100 + 2 * 143
    assert images_of([task("regress", samples=64, epochs=9, cache=1)], 143) == 64 + 143
    assert images_of([task("regress", samples=64, epochs=9, cache=0)], 143) == 9 * 64 + 143
    assert images_of([*together, task("finetune", steps=10, batch=32), task("evaluate")], 143) == 1024 + 2 * 143 + 320
    keep = {"by": "loss", "every": 4, "samples": 50}
    assert images_of([task("finetune", steps=10, batch=32, keep=keep)], 143) == 320 + 4 * 50


def run(script: ModuleType, fd: float, host: float = 1.0) -> Any:
    return script.Run(host, fd, 0.99, 0.1, 12_000, 60.0)


def test_one_seed_above_the_bound_breaks_it(script: ModuleType) -> None:
    claim = script.Claim("pairs", "a", "b", 2.0)
    held, broken = ([run(script, fd, 0.5) for fd in fds] for fds in ((0.8, 0.9, 1.0), (0.8, 0.9, 1.01)))
    control = [run(script, 9.0, 0.5) for _ in range(3)]
    assert script.holds(claim, held)
    assert not script.holds(claim, broken)
    assert "is held by every seed (1.60x, 1.80x, 2.00x;" in script.verdict(claim, {"a": held, "b": control})
    assert "is **not held by every seed** (1.60x, 1.80x, 2.02x;" in script.verdict(claim, {"a": broken, "b": control})


def test_a_control_has_no_first_stage_and_a_regressed_one_the_same(script: ModuleType, tmp_path: Path) -> None:
    for claim in script.CLAIMS:
        mine, *controls = (load(script.seeded(name, 0, tmp_path)) for name in (claim.spec, *claim.controls.values()))
        for control, distill in zip(controls, (None, mine.distill), strict=False):
            assert (control.distill, control.finetune) == (distill, mine.finetune)
            assert {e.init.kind for e in control.edits} == {"random"}  # type: ignore[union-attr]


def test_absolute_bounds_are_held_against_the_distance_itself(script: ModuleType) -> None:
    claim = script.Claim("pairs", "a", "b", 8.0, relative=False)
    assert script.holds(claim, [run(script, 7.9, 0.2)] * 3)
    assert not script.holds(claim, [run(script, 8.1, 2.0)] * 3)


def test_page_and_picture_show_every_claim(script: ModuleType, tmp_path: Path) -> None:
    names = [name for claim in script.CLAIMS for name in (claim.spec, *claim.controls.values())]
    results = {name: [run(script, 1.1 + s) for s in range(3)] for name in names}
    page = script.page(results, 3)
    script.picture(results, tmp_path / "digits.svg")
    picture = (tmp_path / "digits.svg").read_text()
    for claim in script.CLAIMS:
        assert f"| {claim.title} |" in page
        assert f">{claim.title}</text>" in picture
    assert picture.count("<use") >= 3 * len(names)
    assert max(map(len, page.splitlines()[:8])) <= 120
