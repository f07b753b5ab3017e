"""The router's file and choices: heads, thresholds, and what is refused."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from archspec.compiler.routing.fit import fit
from archspec.compiler.routing.make import write_router
from archspec.diagnostics import ArchspecError
from archspec.packs.router import KEY, Embedding, Routing, Task, read_routing
from archspec.runtime.routing.embed import BaseEmbedding
from archspec.runtime.routing.router import Router, open_router
from tests.packs import packed, rules, tuned_from
from tests.runtime.routing.conftest import routed_by, write_spec

BY = ["prototypes", "classifier"]


def clouds(spread: float = 0.3, count: int = 40, tasks: int = 3, width: int = 8) -> dict[str, Tensor]:
    """Return examples around random centres, all far from zero on one side, as hidden states are."""
    draws = torch.Generator().manual_seed(0)
    away = 20 * torch.ones(width)
    centres = torch.randn(tasks, width, generator=draws)
    return {f"t{i}": away + c + spread * torch.randn(count, width, generator=draws) for i, c in enumerate(centres)}


def router_of(by: Any, examples: dict[str, Tensor], **settings: Any) -> Router:
    found = fit(by, examples, **settings)
    tasks = tuple(Task(name, ()) for name in examples)
    embedding = Embedding("given", examples["t0"].shape[1])
    routing = Routing("r", by, {}, tasks, embedding, found.threshold, found.temperature)
    return Router(Path("r"), routing, {}, found.head)


@pytest.mark.parametrize("by", BY)
def test_tasks_that_lie_apart_are_told_apart(by: Any) -> None:
    router, fresh = router_of(by, clouds()), clouds(0.2, 30)
    for task, rows in fresh.items():
        assert [choice.task for choice in router.choose(rows)].count(task) >= 29


@pytest.mark.parametrize("by", BY)
def test_as_many_are_rejected_as_was_asked_for(by: Any) -> None:
    examples = clouds(1.0, 200)
    rejected = [fit(by, examples, reject=part).rejected for part in (0.0, 0.1, 0.4)]
    assert rejected == pytest.approx([0.0, 0.1, 0.4], abs=0.01)


def test_a_threshold_leaves_what_is_unlike_to_the_base() -> None:
    router = router_of("prototypes", clouds(), threshold=0.8)
    inside, outside = clouds(0.1)["t1"], clouds(0.1)["t1"] - 2 * clouds(0.0)["t1"] + 40
    assert {choice.task for choice in router.choose(inside)} == {"t1"}
    assert {choice.task for choice in router.choose(outside)} == {None}
    assert all(choice.score < 0.8 for choice in router.choose(outside))


def test_probabilities_of_a_classifier_are_calibrated() -> None:
    """Where tasks overlap, what is said with a probability is right about as often."""
    router, rows = router_of("classifier", clouds(2.0, 400), threshold=0.0), clouds(2.0, 4000)
    choices = [(c.score, c.task == task) for task, part in rows.items() for c in router.choose(part)]
    said, right = (sum(values) / len(choices) for values in zip(*choices, strict=True))
    assert 0.4 < right < 0.9
    assert abs(said - right) < 0.03


def test_a_single_task_has_prototypes_and_no_classifier() -> None:
    one = {"t0": clouds()["t0"]}
    assert {c.task for c in router_of("prototypes", one).choose(one["t0"])} == {"t0"}
    with pytest.raises(ArchspecError, match="AS678"):
        fit("classifier", one)


@pytest.mark.parametrize("by", BY)
def test_two_tasks(by: Any) -> None:
    examples = clouds(tasks=2)
    router = router_of(by, examples)
    assert router.head is not None
    assert len(router.head.weight) == 2
    for task, rows in examples.items():
        assert {choice.task for choice in router.choose(rows)} <= {task, None}


def test_too_few_examples_are_named_all_at_once() -> None:
    examples = clouds() | {"u": torch.zeros(1, 8), "v": torch.zeros(0, 8)}
    with pytest.raises(ArchspecError) as caught:
        fit("prototypes", examples)
    assert [d.message for d in caught.value.diagnostics] == ["task 'u' has 1 example", "task 'v' has 0 examples"]


@pytest.mark.parametrize("by", BY)
def test_a_file_is_read_as_it_was_written_and_is_the_same_again(by: Any, tmp_path: Path) -> None:
    router = router_of(by, clouds())
    for name in ("a", "b"):
        write_router(router.routing, router.head, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    again = open_router(tmp_path / "a")
    assert again.routing == router.routing
    assert router.head is not None
    assert again.head is not None
    assert all(torch.equal(value, again.head.tensors[name]) for name, value in router.head.tensors.items())


def test_the_same_spec_gives_the_same_bytes(shop: Path) -> None:
    path = routed_by(shop, "same", "by: classifier")
    first = path.read_bytes()
    assert routed_by(shop, "same", "by: classifier").read_bytes() == first


def test_a_router_finds_its_packs_from_its_own_folder(shop: Path, tmp_path: Path) -> None:
    from archspec.compiler.routing.make import route_spec

    (shop / "deep").mkdir(exist_ok=True)
    out = shop / "deep" / "r.router.safetensors"
    route_spec(write_spec(shop, "deep", "by: map"), out)
    assert [p.file for t in read_routing(out).tasks for p in t.packs] == [
        "../sql.skillpack.safetensors", "../code.skillpack.safetensors",
    ]  # fmt: skip
    assert len(open_router(out).packs) == 2


def test_unknown_tasks_are_named_with_what_is_near(shop: Path) -> None:
    router = open_router(routed_by(shop, "near", "by: map"))
    with pytest.raises(ArchspecError) as caught:
        router.given(["sql", "sqll", None, "zzz"])
    first, second = caught.value.diagnostics
    assert (first.code, first.hints) == ("AS687", ("did you mean 'sql'?",))
    assert second.hints == ("tasks are sql, code, chat",)
    with pytest.raises(ArchspecError, match=r"AS687.*is a map"):
        router.route(["a prompt"], None)


def test_embeddings_of_another_width_are_refused() -> None:
    with pytest.raises(ArchspecError, match=r"AS689.*\(2, 9\)"):
        router_of("prototypes", clouds()).choose(torch.zeros(2, 9))
    with pytest.raises(ArchspecError, match="AS713"):
        router_of("prototypes", clouds()).route(["x"], None)


def test_packs_of_another_base_than_the_routers_are_refused(shop: Path, tmp_path: Path) -> None:
    path = routed_by(shop, "mixed", "by: map")
    other = tuned_from(shop / "base", tmp_path / "other", size=0.3)
    tuned = tuned_from(other, tmp_path / "tuned")
    packed(tmp_path, other, f"{{tuned: {tuned}, {rules(other)}}}", "sql")
    routing = read_routing(path)
    moved = tmp_path / "mixed.router.safetensors"
    for file in ("sql.skillpack.safetensors", "code.skillpack.safetensors"):
        if not (tmp_path / file).exists():
            (tmp_path / file).symlink_to(shop / file)
    write_router(routing, None, moved)
    with pytest.raises(ArchspecError, match=r"AS689.*'sql.skillpack.safetensors'") as caught:
        open_router(moved)
    assert len(caught.value.diagnostics) == 1
    hint = "AS681.*'sql.skillpack.safetensors' is of another base"
    tasks = f"{{name: a, packs: [{tmp_path / 'sql.skillpack.safetensors'}]}}"
    with pytest.raises(ArchspecError, match=hint):
        routed_by(shop, "wrong", "by: map", tasks)


def test_a_spec_without_a_route(shop: Path) -> None:
    from archspec.compiler.routing.make import route_spec

    (shop / "none.yaml").write_text("name: nothing\nbase: ./base\n")
    with pytest.raises(ArchspecError, match=r"AS677.*routes nothing"):
        route_spec(shop / "none.yaml")


def test_the_base_embeds_by_the_mean_of_a_layer(shop: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(shop / "base").eval()
    tokenizer = AutoTokenizer.from_pretrained(shop / "base")
    tokens = tokenizer("count users rows")["input_ids"]
    with torch.no_grad():
        states = model(torch.tensor([tokens]), output_hidden_states=True).hidden_states
    for layer, wanted in ((None, states[-1]), (0, states[0]), (2, states[2]), (-2, states[-2])):
        embed = BaseEmbedding(model, Embedding("base", 32, layer), tokenizer)
        assert torch.allclose(embed(["sort", "count users rows"])[1], wanted[0].mean(0), atol=1e-5)
    short = BaseEmbedding(model, Embedding("base", 32, 0, length=2), tokenizer)
    assert torch.allclose(short(["count users rows"])[0], states[0][0, :2].mean(0), atol=1e-6)
    with pytest.raises(ArchspecError, match=r"AS713.*0 to 4"):
        BaseEmbedding(model, Embedding("base", 32, 5), tokenizer)(["sort"])
    with pytest.raises(ArchspecError, match="AS708"):
        BaseEmbedding(model, Embedding("base", 32))(["sort"])


def test_images_are_embedded_and_diffusion_hosts_are_not(tiny_vit: Path, tiny_dit: Path) -> None:
    from diffusers import DiTTransformer2DModel
    from transformers import ViTForImageClassification

    pixels = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    model = ViTForImageClassification.from_pretrained(tiny_vit).eval()
    found = BaseEmbedding(model, Embedding("base", 32))(pixels)
    assert torch.allclose(found, model.vit(pixels).last_hidden_state.mean(1), atol=1e-6)
    with pytest.raises(ArchspecError, match="AS713"):
        BaseEmbedding(DiTTransformer2DModel.from_pretrained(tiny_dit), Embedding("base", 32))(pixels)


def header_changed(change: Callable[[dict[str, Any]], Any]) -> Callable[[bytes], bytes]:
    """Return what changes the router's header within a file and leaves the data alone."""

    def rewrite(data: bytes) -> bytes:
        (length,) = struct.unpack("<Q", data[:8])
        outer = json.loads(data[8 : 8 + length])
        inner = json.loads(outer["__metadata__"][KEY])
        change(inner)
        outer["__metadata__"][KEY] = json.dumps(inner)
        head = json.dumps(outer).encode()
        return struct.pack("<Q", len(head)) + head + data[8 + length :]

    return rewrite


HOSTILE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut": lambda data: data[:-4],
    "of another format": header_changed(lambda h: h.update(format=2)),
    "of another kind": header_changed(lambda h: h.update(by="oracle")),
    "said to be a map": header_changed(lambda h: h.update(by="map")),
    "without tasks": header_changed(lambda h: h.update(tasks=[])),
    "with a task twice": header_changed(lambda h: h["tasks"].append(h["tasks"][0])),
    "with more tasks than rows": header_changed(lambda h: h["tasks"].append({"name": "more", "packs": []})),
    "averaging too many": header_changed(lambda h: h.update(top=4)),
    "averaging none": header_changed(lambda h: h.update(top=0)),
    "with a threshold above 1": header_changed(lambda h: h.update(threshold=1.5)),
    "with a negative temperature": header_changed(lambda h: h.update(temperature=-1)),
    "wider": header_changed(lambda h: h["embedding"].update(width=2**19)),
    "of a width beyond counting": header_changed(lambda h: h["embedding"].update(width=10**30)),
    "without an embedding": header_changed(lambda h: h.update(embedding=None)),
    "with a scale beyond float32": header_changed(lambda h: h["tasks"][0].update(packs=[{"file": "p", "scale": 1e40}])),
    "with a pack of no file": header_changed(lambda h: h["tasks"][0].update(packs=[{"scale": 1}])),
}


@pytest.mark.parametrize("how", HOSTILE)
def test_hostile_files_are_refused(tmp_path: Path, how: str) -> None:
    router, path = router_of("classifier", clouds()), tmp_path / "r"
    write_router(router.routing, router.head, path)
    path.write_bytes(HOSTILE[how](path.read_bytes()))
    with pytest.raises(ArchspecError) as caught:
        open_router(path)
    assert {found.code for found in caught.value.diagnostics} <= {"AS688", "AS612", "AS616", "AS617"}


def test_values_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    router, path = router_of("classifier", clouds()), tmp_path / "r"
    for name in ("weight", "spread"):
        write_router(router.routing, router.head, path)
        tensors = load_file(path)
        tensors[name].flatten()[0] = torch.nan if name == "weight" else 0.0
        save_file(tensors, path, {KEY: router.routing.to_text()})
        with pytest.raises(ArchspecError, match=rf"AS688.*'{name}'"):
            open_router(path)


def test_another_file_is_no_router(shop: Path) -> None:
    with pytest.raises(ArchspecError, match=r"AS688.*is no router"):
        open_router(shop / "sql.skillpack.safetensors")


VALUES: tuple[Any, ...] = (None, True, -1, 0, 2, 2**63, 10**30, 1.5, 1e400, "", "map", "base", [], {}, [[]], [1], [{}])


def test_whatever_the_header_says_is_read_or_refused(tmp_path: Path) -> None:
    """Values of the header exchanged at random: a sound router or a diagnostic, never another exception."""
    rng, path, outcomes = random.Random(0), tmp_path / "r", {"read": 0, "refused": 0}
    router = router_of("prototypes", clouds())
    write_router(replace(router.routing, made={"accuracy": 1.0}), router.head, path)
    data = path.read_bytes()

    def spoil(header: dict[str, Any]) -> None:
        node: Any = header
        while isinstance(node, dict | list) and node:
            key = rng.choice(list(node) if isinstance(node, dict) else list(range(len(node))))
            if not isinstance(node[key], dict | list) or not node[key] or rng.random() < 0.2:
                node[key] = rng.choice(VALUES)
                return
            node = node[key]

    for _ in range(200):
        path.write_bytes(header_changed(spoil)(data))
        try:
            open_router(path)
            outcomes["read"] += 1
        except ArchspecError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 20
