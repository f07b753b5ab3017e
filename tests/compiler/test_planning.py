from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from archspec.compiler.planning import Prices, Sources, make_plan, waves
from archspec.compiler.pricing.timing import estimate, measure_rate
from archspec.host.locate import Located, structure_of
from archspec.instructions import Instruction
from archspec.language.parse import load_source
from archspec.plan import Cost, Plan, Task
from archspec.runtime.learn.least_squares import GramAccumulator, gram_bytes
from archspec.semantics.lower import lower
from archspec.semantics.resolve import ResolvedSpec, resolve
from archspec.source import Source

EDITS = """
edits:
  - replace: blocks[*].mlp
    with: {op: mlp, ratio: 2}
    init: least_squares
  - replace: blocks[1].attn
    with: {op: hyena_x, kernel: 2}
  - replace: blocks[3].attn
    with: zero
  - parallelize: blocks[0:2]
    by: 2
    init: least_squares
"""
STAGES = """
distill: {samples: 100, epochs: 3, batch: 10, loss: {mlp: huber}}
finetune: {steps: 10, batch: 4, distill_weight: 1}
eval: {samples: 5, steps: 2}
"""
SOURCES = Sources(
    {"from": "host"}, "xxh3:1", "flow", {"from": "digits"}, {"distill": "d", "finetune": "f", "eval": "e"}
)
PRICES = Prices(1000, 800, {f"transformer_blocks.{i}.ff": 10 for i in range(4)})


def prepared(host: Path, edits: str = EDITS, stages: str = STAGES) -> tuple[ResolvedSpec, tuple[Instruction, ...]]:
    spec = load_source(Source("test.yaml", f"archspec: 1\nname: test\nbase: {host}\ndata: digits\n{edits}{stages}"))
    resolved = resolve(spec, structure_of(Located(host)))
    return resolved, lower(resolved)


def planned(host: Path, edits: str = EDITS, stages: str = STAGES, sources: Sources = SOURCES) -> Plan:
    return make_plan(*prepared(host, edits, stages), sources, PRICES)


def keys(plan: Plan) -> dict[str, str]:
    return {task.id: task.key for task in plan.tasks}


def test_every_part_is_fitted_and_regressed_in_order(tiny_dit: Path) -> None:
    plan = planned(tiny_dit)
    assert [t.id for t in plan.tasks] == [
        "fit/blocks[0].mlp",
        "fit/blocks[1].mlp",
        "fit/blocks[2].mlp",
        "fit/blocks[3].mlp",
        "fit/blocks[0,1]",
        "regress/blocks[0].mlp",
        "regress/blocks[1].attn",
        "regress/blocks[1].mlp",
        "regress/blocks[2].mlp",
        "regress/blocks[3].mlp",
        "regress/blocks[0,1]",
        "finetune",
        "evaluate",
    ]
    needs = {task.id: set(task.needs) for task in plan.tasks}
    assert needs["fit/blocks[0,1]"] == {"fit/blocks[0].mlp", "fit/blocks[1].mlp"}
    assert needs["regress/blocks[2].mlp"] == {"fit/blocks[2].mlp"}
    assert "regress/blocks[1].attn" in needs["regress/blocks[0,1]"]
    assert needs["evaluate"] == {"finetune"}


def test_a_plan_is_read_as_it_was_written(tiny_dit: Path) -> None:
    plan = planned(tiny_dit)
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == Plan.from_json(plan.to_json())
    assert plan.to_json() == planned(tiny_dit).to_json()


def test_settings_say_what_each_slot_means(tiny_dit: Path) -> None:
    plan = planned(tiny_dit)
    losses = {t.id: t.settings["loss"] for t in plan.tasks if t.kind == "regress"}
    assert losses["regress/blocks[1].attn"] == "l1"
    assert losses["regress/blocks[1].mlp"] == "huber"
    assert losses["regress/blocks[0,1]"] == "l1"
    donors: dict[str, Any] = {t.id: t.settings.get("donor") for t in plan.tasks if t.kind == "fit"}
    assert donors["fit/blocks[2].mlp"]["down.weight"] == "transformer_blocks.2.ff.net.2.weight"
    assert donors["fit/blocks[0,1]"] is None


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("steps: 10", "steps: 11", {"finetune", "evaluate"}),
        ("samples: 5", "samples: 6", {"evaluate"}),
        ("epochs: 3", "epochs: 4", {"regress", "finetune", "evaluate"}),
        ("ratio: 2", "ratio: 3", {"fit", "regress", "finetune", "evaluate"}),
        ("batch: 4,", "batch: 4, checkpoint: 7,", set()),
        ("epochs: 3", "epochs: 3, cache: 1MiB", set()),
        ("epochs: 3", "epochs: 3, cache: 0", {"regress", "finetune", "evaluate"}),
    ],
)
def test_a_change_alters_the_keys_of_what_depends_on_it(tiny_dit: Path, old: str, new: str, changed: set[str]) -> None:
    before, plan = keys(planned(tiny_dit)), planned(tiny_dit, EDITS.replace(old, new), STAGES.replace(old, new))
    found = {task.kind for task in plan.tasks if task.key != before[task.id]}
    assert found == changed


def test_lora_names_the_sites_of_old_weights(tiny_dit: Path) -> None:
    stages = STAGES.replace("steps: 10", "steps: 10, lora: {rank: 4, targets: [attn]}")
    finetune = next(task for task in planned(tiny_dit, EDITS, stages).tasks if task.kind == "finetune")
    assert finetune.settings["lora"]["sites"] == [f"transformer_blocks.{i}.attn1" for i in (0, 2)]  # 1 and 3 are new
    assert finetune.settings["lora"]["alpha"] == 4
    assert finetune.settings["new"]


def test_keeping_the_best_is_planned_and_priced(tiny_dit: Path) -> None:
    before = planned(tiny_dit).task("finetune")
    stages = STAGES.replace("steps: 10", "steps: 10, keep: {which: best, by: teacher, every: 4, samples: 8}")
    finetune = planned(tiny_dit, EDITS, stages).task("finetune")
    assert finetune.settings["keep"] == {"by": "teacher", "every": 4, "samples": 8}
    assert finetune.settings["why"] == (
        "keeps the best by the distance to the teacher on 8 held-out examples: before, every 4 steps, at the end"
    )
    assert finetune.cost.flops - before.cost.flops == 4 * 8 * (800 + 1000)  # after 0, 4, 8 and 10 steps
    assert finetune.key != before.key
    by_loss = planned(tiny_dit, EDITS, STAGES.replace("distill_weight: 1", "keep: best")).task("finetune")
    assert by_loss.settings["keep"] == {"by": "loss", "every": 1, "samples": 256}
    assert by_loss.cost.flops == 40 * 3 * 800 + 11 * 256 * 800  # no teacher runs
    last = planned(tiny_dit, EDITS, STAGES.replace("steps: 10", "steps: 10, keep: last")).task("finetune")
    assert last == before


@pytest.mark.parametrize(("targets", "found"), [("'blocks[0:2]'", [0]), ("'blocks[1::2].attn | blocks[2].attn'", [2])])
def test_lora_goes_where_selectors_say(targets: str, found: list[int], tiny_dit: Path) -> None:
    stages = STAGES.replace("steps: 10", f"steps: 10, lora: {{rank: 4, targets: [{targets}]}}")
    finetune = next(task for task in planned(tiny_dit, EDITS, stages).tasks if task.kind == "finetune")
    assert finetune.settings["lora"]["sites"] == [f"transformer_blocks.{i}.attn1" for i in found]  # the rest is new


@pytest.mark.parametrize(
    ("cache", "epochs", "why"),
    [
        ("2GiB", 3, r"cached: .* save 2 of 3 runs of the teacher"),
        ("2GiB", 1, "online: every example is seen once"),
        ("1KiB", 3, r"online: .* do not fit the cache of 1KiB"),
        ("0", 3, "online: the cache is switched off"),
    ],
)
def test_regressions_say_whether_and_why_they_cache(tiny_dit: Path, cache: str, epochs: int, why: str) -> None:
    stages = STAGES.replace("epochs: 3", f"epochs: {epochs}, cache: {cache}")
    tasks = [task for task in planned(tiny_dit, EDITS, stages).tasks if task.kind == "regress"]
    assert tasks
    for task in tasks:
        assert re.fullmatch(why, task.settings["why"])
        assert (task.settings["cache"] > 0) == (task.cost.cache_bytes > 0) == why.startswith("cached")


def test_one_site_changed_leaves_the_others_alone(tiny_dit: Path) -> None:
    before = keys(planned(tiny_dit))
    after = keys(planned(tiny_dit, EDITS.replace("kernel: 2", "kernel: 3")))
    changed = {id for id in before if before[id] != after[id]}
    assert changed == {"regress/blocks[1].attn", "fit/blocks[0,1]", "regress/blocks[0,1]", "finetune", "evaluate"}


def test_base_and_data_are_part_of_the_keys(tiny_dit: Path) -> None:
    before = keys(planned(tiny_dit))
    other_base = keys(planned(tiny_dit, sources=replace(SOURCES, fingerprint="xxh3:2")))
    assert not set(before.values()) & set(other_base.values())
    identities = {**SOURCES.identities, "finetune": "other"}
    other_data = keys(planned(tiny_dit, sources=replace(SOURCES, identities=identities)))
    assert {id for id in before if before[id] != other_data[id]} == {"finetune", "evaluate"}


def test_files_are_part_of_the_keys_and_their_names_are_not(tiny_dit: Path) -> None:
    edits = EDITS.replace("with: {op: hyena_x, kernel: 2}", "with: {op: hyena_x, kernel: 2}\n    init: {from: w.bin}")
    stages = STAGES.replace("eval: {", "eval: {classifier: c, ")

    def found(weights: str, classifier: str, edits: str = edits, stages: str = stages) -> dict[str, str]:
        files = {"w.bin": weights, "other.bin": weights, "c": classifier, "d": classifier}
        return keys(planned(tiny_dit, edits, stages, replace(SOURCES, files=files)))

    before = found("1", "1")
    later = {"regress/blocks[1].attn", "fit/blocks[0,1]", "regress/blocks[0,1]", "finetune", "evaluate"}
    assert {id for id, key in found("2", "1").items() if before[id] != key} == later
    assert {id for id, key in found("1", "2").items() if before[id] != key} == {"evaluate"}
    renamed = found("1", "1", edits.replace("w.bin", "other.bin"), stages.replace("classifier: c", "classifier: d"))
    assert renamed == before


def test_parts_that_see_the_same_have_one_teacher(tiny_dit: Path) -> None:
    def shown(plan: Plan) -> dict[str, str]:
        regressions = (task for task in plan.tasks if task.kind == "regress")
        return {task.id: task.settings["teacher"] for task in regressions if "teacher" in task.settings}

    before = shown(planned(tiny_dit))
    assert len(set(before.values())) == len(before) == 6
    assert shown(planned(tiny_dit, EDITS.replace("kernel: 2", "kernel: 3"))) == before  # another operator
    assert shown(planned(tiny_dit, stages=STAGES.replace("epochs: 3", "epochs: 5, lr: 1e-3"))) == before
    for stages in (STAGES.replace("samples: 100", "samples: 90"), STAGES.replace("batch: 10", "batch: 10, seed: 1")):
        assert not set(shown(planned(tiny_dit, stages=stages)).values()) & set(before.values())
    other = replace(SOURCES, identities={**SOURCES.identities, "distill": "other"})
    assert not set(shown(planned(tiny_dit, sources=other)).values()) & set(before.values())
    assert shown(planned(tiny_dit, stages=STAGES.replace("epochs: 3", "epochs: 1"))) == {}  # seen once, so not cached


def test_sequential_fits_wait_for_those_before_them(tiny_dit: Path) -> None:
    edits = EDITS.replace("init: least_squares", "init: {kind: least_squares, sequential: true}")
    fits = [t for t in planned(tiny_dit, edits).tasks if t.kind == "fit"]
    assert [len(t.needs) for t in fits] == list(range(5))
    assert [t.wave for t in fits] == list(range(5))
    assert fits[2].id == "fit/blocks[0,1]"  # the pair is done before the blocks behind it


def test_what_has_no_weights_is_not_regressed_and_frozen_blocks_stay(tiny_dit: Path) -> None:
    plan = planned(tiny_dit, EDITS + "  - freeze: blocks[0]\n")
    assert not any("blocks[3].attn" in task.id for task in plan.tasks)
    group = plan.task("regress/blocks[0,1]")
    assert group.settings["frozen"] == ["transformer_blocks.0"]
    assert plan.task("finetune").settings["frozen"] == ["transformer_blocks.0"]
    assert plan.task("regress/blocks[0].mlp").settings["frozen"] == []


def test_costs_count_passes(tiny_dit: Path) -> None:
    plan = planned(tiny_dit)
    regress, finetune, evaluate = plan.task("regress/blocks[2].mlp"), plan.task("finetune"), plan.task("evaluate")
    assert regress.cost == Cost(300, 100 * 1000 + 3 * 300 * 10, 2 * 2 * 100 * 16 * 32)
    assert finetune.cost == Cost(40, 40 * (3 * 800 + 1000), 0)
    assert evaluate.cost == Cost(5, 5 * 2 * (1000 + 800), 0)
    fit = plan.task("fit/blocks[2].mlp").cost
    assert fit.examples == 1024
    assert fit.cache_bytes == gram_bytes(128, 32)  # of the teacher's neurons; independent of the number of tokens
    assert plan.task("fit/blocks[0,1]").cost.cache_bytes == gram_bytes(64, 32)


def test_a_matrix_takes_the_bytes_that_the_planner_counts() -> None:
    assert GramAccumulator.empty(12, 5).bytes == gram_bytes(12, 5)


def test_closed_forms_that_see_the_same_have_one_teacher(tiny_dit: Path) -> None:
    """Whatever the operator; not what depends on the edited model, nor what does not fit the cache."""

    def shown(init: str, op: str = "hyena_x", distill: str = "none") -> str | None:
        edits = f"edits: [{{replace: 'blocks[1].attn', with: {op}, init: {{kind: least_squares, {init}}}}}]\n"
        (fit,) = planned(tiny_dit, edits, f"distill: {distill}\n" if distill != "none" else "").tasks[:1]
        found: str | None = fit.settings.get("teacher")
        return found

    one = shown("samples: 64")
    assert one is not None
    assert one == shown("samples: 64, ridge: 1e-2", "{op: local_attention, window: 2}")
    assert shown("samples: 65") not in (None, one)
    assert shown("samples: 64, sequential: true") is None
    assert shown("samples: 64", distill="{samples: 64, epochs: 1, cache: 1KiB}") is None


@pytest.mark.parametrize(
    ("budget", "waves_", "why"),
    [
        (4 * 2**30, [0, 0, 0, 0, 1], "in 2 turns, of at most 4GiB of Gram matrices: 3 passes of the teacher"),
        (340_000, [0, 0, 1, 1, 2], "in 3 turns, of at most .* of Gram matrices: 6 passes of the teacher"),
        (1, [0, 1, 2, 3, 4], "in 5 turns, of at most 1B of Gram matrices: 9 passes of the teacher"),
    ],
)
def test_fits_take_turns_within_a_budget_and_say_so(tiny_dit: Path, budget: int, waves_: list[int], why: str) -> None:
    init = f"init: {{kind: least_squares, grams: {budget}}}"
    plan = planned(tiny_dit, EDITS.replace("init: least_squares", init, 1))
    fits = [task for task in plan.tasks if task.kind == "fit"]
    assert sorted(task.wave for task in fits) == waves_
    assert [re.fullmatch(why, task.settings["why"]) is None for task in fits] == [False] * 5, fits[0].settings["why"]
    assert keys(plan) == keys(planned(tiny_dit))  # what was finished in other turns is valid


def test_a_router_is_a_pass_of_its_own(tiny_dit: Path) -> None:
    edits = "edits: [{replace: 'blocks[1].mlp', with: {op: moe, experts: 4, top_k: 2}, init: least_squares}]\n"
    (fit,) = [task for task in planned(tiny_dit, edits, "").tasks if task.kind == "fit"]
    assert fit.settings["passes"] == 2
    assert fit.settings["why"].endswith("2 passes of the teacher")


def test_no_stage_no_task(tiny_dit: Path) -> None:
    assert planned(tiny_dit, "edits: [{drop: 'blocks[1]'}]\n", "").tasks == ()


def task(id: str, size: int, *needs: str) -> Task:
    return Task(id, "regress", "", ("a",), needs, {}, Cost(cache_bytes=size))


@pytest.mark.parametrize(
    ("tasks", "budget", "expected"),
    [
        ([task("a", 4), task("b", 4), task("c", 2)], 6, [["a", "c"], ["b"]]),
        ([task("a", 1), task("b", 1, "a"), task("c", 1)], 9, [["a", "c"], ["b"]]),
        ([task("a", 99), task("b", 1)], 6, [["a"], ["b"]]),
        ([task("a", 0), task("b", 0), task("c", 0, "b")], 0, [["a", "b"], ["c"]]),
    ],
)
def test_waves_keep_to_the_budget_and_the_order(tasks: Sequence[Task], budget: int, expected: Any) -> None:
    found = waves(tasks, budget)
    assert [[t.id for t in found if t.wave == n] for n in range(len(expected))] == expected


def test_time_is_a_range_from_a_measured_rate() -> None:
    rate = measure_rate(0.05)
    assert rate > 1e8
    fewest, most = estimate(10**12, rate)
    assert 0 < fewest < most < 1e6
