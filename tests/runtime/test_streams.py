"""Hosts of two streams, SD3 and FLUX: edits reload in plain diffusers to the bit, plans teach both streams."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import archspec
from archspec.diagnostics import ArchspecError
from archspec.host.locate import Located, structure_of
from archspec.runtime.families import family
from archspec.runtime.learn.draws import generator
from archspec.runtime.measure.sample import Request, first_noise, sample
from archspec.runtime.objectives import make_objective
from archspec.runtime.packing import Packing, places
from archspec.runtime.probing.measures import parse_measures
from archspec.runtime.probing.probe import measure
from archspec.runtime.store.home import home
from archspec.runtime.store.opening import open_model

Make = Callable[..., Path]
NARROW = '  - {replace: "blocks.mlp", with: {op: mlp, ratio: 2}}\n'
EDITS = {
    "sd3": {
        "mlps": NARROW + '  - {replace: "blocks[0:3].context_mlp", with: {op: mlp, ratio: 2}}\n',
        "own attention": '  - {replace: "blocks[0:2].attn", with: {op: local_attention, window: 1, layout: grid}}\n',
        "pairs": '  - {parallelize: "blocks[0:4]", by: 2, merge: linear}\n',
        "again": '  - {repeat: "blocks[1]", times: 2}\n  - {repeat: "blocks[2]", times: 2, tie: true}\n',
        "joint": '  - {replace: "blocks[1::2].joint_attn", with: {op: local_attention, window: 1, layout: grid}}\n'
        '  - {replace: "blocks[0].joint_attn", with: mamba2}\n  - {replace: "blocks[2].joint_attn", with: hyena_x}\n',
        "dropped": '  - {drop: "blocks[3]"}\n  - {replace: "blocks[1]", with: identity}\n',
        "led": '  - {skip: "blocks[0:2]", to: "blocks[2:4]"}\n  - {insert: "blocks[0] | blocks[3]", with: hyena_x}\n',
    },
    "flux": {
        "mlps": NARROW + '  - {replace: "blocks[0].context_mlp", with: {op: low_rank, rank: 4}}\n',
        "single mlps": '  - {replace: "single_blocks[0:2].mlp", with: {op: mlp, ratio: 2}}\n'
        '  - {replace: "single_blocks[2].mlp", with: {op: moe, experts: 4}}\n'
        '  - {replace: "single_blocks[3].mlp", with: {op: hyena_mlp, channels: shared}, init: random}\n',
        "mixer": '  - {replace: "single_blocks[1::2].attn", with: {op: hyena_x, layout: raster}}\n',
        "joint": '  - {replace: "blocks[0:2].joint_attn", with: {op: local_attention, window: 1}}\n'
        '  - {replace: "blocks[2].joint_attn | single_blocks[0].attn", with: linear_attention}\n',
        "pairs": '  - {parallelize: "single_blocks", by: 2}\n  - {parallelize: "blocks[1:3]", by: 2, merge: sum}\n',
        "again": '  - {repeat: "single_blocks[1]", times: 2, tie: true}\n  - {drop: "blocks[1] | single_blocks[3]"}\n',
        "led": '  - {skip: "single_blocks[0]", to: "single_blocks[3]"}\n  - {insert: "blocks[2]", with: attention}\n',
    },
}
CASES = [(host, edits) for host, known in EDITS.items() for edits in known]


def example(model: Any, name: str) -> dict[str, Any]:
    return family(name).example(model, batch=2, tokens=16, seed=3)


def run(model: Any, name: str) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(**example(model, name)).sample
    return found


@pytest.mark.parametrize(("host", "edits"), CASES)
def test_saved_and_loaded_again_to_the_bit(
    host: str, edits: str, make: Make, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    out = make(request.getfixturevalue(f"tiny_{host}"), EDITS[host][edits])
    model: Any = archspec.load(out)
    wanted = run(model, host)
    assert bool(wanted.isfinite().all())
    plain = getattr(archspec, type(model).__name__).from_pretrained(out)
    assert torch.equal(run(plain, host), wanted)
    plain.save_pretrained(tmp_path / "again")
    assert torch.equal(run(archspec.load(tmp_path / "again"), host), wanted)


@pytest.mark.parametrize("host", EDITS)
def test_what_is_not_edited_is_the_host(host: str, make: Make, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(f"tiny_{host}")
    model = archspec.load(make(folder, '  - {freeze: "blocks[0]"}\n'))
    assert torch.equal(run(model, host), run(open_model(home(folder)), host))


SELF = {"sd3": "blocks.joint_attn | blocks[0].attn", "flux": "blocks.joint_attn | single_blocks.attn"}


@pytest.mark.parametrize("host", EDITS)
@pytest.mark.parametrize("operator", ["attention", "{op: local_attention, window: 1000}"])
def test_attention_that_inherits_is_the_host(
    host: str, operator: str, make: Make, request: pytest.FixtureRequest
) -> None:
    """Of both streams' maps, norms, and FLUX's rotary tables; FLUX's single blocks keep their output map."""
    folder = request.getfixturevalue(f"tiny_{host}")
    out = make(folder, f'  - {{replace: "{SELF[host]}", with: {operator}, init: inherit}}\n')
    wanted, found = run(open_model(home(folder)), host), run(archspec.load(out), host)
    assert (found - wanted).abs().max() <= 1e-6 * wanted.abs().max()


WHOLE = '  - {replace: "single_blocks[0:2].mlp", with: {op: mlp, ratio: 4}, init: INIT}\n'


def test_single_mlps_that_inherit_are_the_host(tiny_flux: Path, make: Make) -> None:
    """One map of the host reads attention and MLP: its columns are parted, its bias stays where the attention is."""
    out = make(tiny_flux, WHOLE.replace("INIT", "inherit"))
    host, model = open_model(home(tiny_flux)), archspec.load(out)
    wanted, found = run(host, "flux"), run(model, "flux")
    assert (found - wanted).abs().max() <= 1e-6 * wanted.abs().max()
    mine, theirs = model.state_dict(), host.state_dict()
    block = "single_transformer_blocks.1"
    parts = mine[f"{block}.proj_out.foreign.weight"], mine[f"{block}.proj_mlp.readout.weight"]
    assert torch.equal(torch.cat(parts, 1), theirs[f"{block}.proj_out.weight"])
    assert torch.equal(mine[f"{block}.proj_out.foreign.bias"], theirs[f"{block}.proj_out.bias"])
    assert f"{block}.proj_mlp.readout.bias" not in mine
    untouched = "single_transformer_blocks.2.proj_out.weight"
    assert torch.equal(mine[untouched], theirs[untouched])


def test_single_mlps_are_tried_by_themselves(tiny_flux: Path) -> None:
    """What a search puts in their place for a while leaves the attention's part of the shared map alone."""
    from archspec.operators.mlp import Mlp
    from archspec.operators.zero import Zero
    from archspec.runtime.probing.replacement import Trial, made, standing

    host, structure = open_model(home(tiny_flux)), structure_of(Located(tiny_flux))
    site = structure.site("single_transformer_blocks.1.proj_mlp")
    assert site is not None
    wanted, answers = run(host, "flux"), {}
    for config in (Mlp.native(site.shape), Zero()):
        operator = made(Trial(site, config), host.state_dict(), 0, "cpu")
        with standing(host, site, operator):
            answers[config.name] = run(host, "flux")
    assert torch.equal(run(host, "flux"), wanted)
    assert (answers["mlp"] - wanted).abs().max() <= 1e-6 * wanted.abs().max()
    with torch.no_grad():
        host.get_parameter(f"{site.paths[-1]}.weight")[:, site.port.foreign :] = 0
    assert (answers["zero"] - run(host, "flux")).abs().max() <= 1e-6 * wanted.abs().max()


LEARNED = """
archspec: 1
name: singles
base: {host}
data: {{from: data.safetensors, kind: latents}}
edits:
  - replace: single_blocks[0:2].mlp
    with: {{op: mlp, ratio: {ratio}}}
    init: {{kind: least_squares, samples: 256, sequential: {sequential}}}
distill: {{samples: 32, epochs: 2, batch: 16, lr: 1e-3, gate_weighted: true, cache: 0}}
"""


@pytest.mark.parametrize(("ratio", "sequential"), [(2, "false"), (2, "true"), (4, "false")])
def test_plans_teach_single_mlps_their_own_part(ratio: int, sequential: str, tiny_flux: Path, tmp_path: Path) -> None:
    """What is imitated is what the MLP adds to the block: the teacher's own neurons give it before any fit."""
    from archspec.compiler.driver import compile_spec
    from archspec.runtime.execution.execute import execute, read_plan
    from archspec.runtime.execution.workspace import Workspace

    data = {"x": draw(240, 4, 8, 8), "caption": draw(240, 5, 24, seed=1), "pooled": draw(240, 20, seed=2)}
    save_file(data, tmp_path / "data.safetensors")
    (tmp_path / "spec.yaml").write_text(LEARNED.format(host=tiny_flux, ratio=ratio, sequential=sequential))
    compile_spec(tmp_path / "spec.yaml", tmp_path / "out")
    before = archspec.load(tmp_path / "out").state_dict()
    assert execute(tmp_path / "out", device="cpu").complete
    plan, workspace = read_plan(tmp_path / "out"), Workspace(tmp_path / "out")
    for task in plan.tasks:
        outcome = workspace.report(task.key)["outcomes"][0]
        if task.kind == "fit" and ratio == 4:
            assert outcome["before"] < 1e-5
        elif task.kind == "fit":
            assert 0 < outcome["after"] < outcome["before"] < 1
    after = archspec.load(tmp_path / "out").state_dict()
    changed = {name for name, tensor in before.items() if not torch.equal(after[name], tensor)}
    taught = {n for n in before if ".proj_mlp." in n and n.split(".")[1] in "01"}
    assert changed == (taught if ratio == 2 else set()), "of the teacher's size nothing is left to learn"


CHECKPOINTED = [
    (h, e) for h, e in CASES if e in ("pairs", "joint", "single mlps") or (h, e) in (("sd3", "led"), ("sd3", "dropped"))
]


@pytest.mark.parametrize(("host", "edits"), CHECKPOINTED)
def test_gradient_checkpointing_calls_by_place(
    host: str, edits: str, make: Make, request: pytest.FixtureRequest
) -> None:
    """The library passes keywords in one case and places in the other."""
    model: Any = archspec.load(make(request.getfixturevalue(f"tiny_{host}"), EDITS[host][edits]))
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            model.enable_gradient_checkpointing()
        model.zero_grad()
        model(**example(model, host)).sample.square().mean().backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-7)


NAMES = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")


def parts(scheduler: Any) -> dict[str, Any]:
    """The parts of a pipeline beside its transformer; texts come as embeddings."""
    from diffusers import AutoencoderKL

    coder = AutoencoderKL(
        block_out_channels=[8], latent_channels=4, norm_num_groups=4, sample_size=8, shift_factor=0.1, scaling_factor=1
    )
    return {"scheduler": scheduler, "vae": coder.eval(), **dict.fromkeys(NAMES)}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_compiled_pipeline_of_sd3_draws(tiny_sd3: Path, make: Make, tmp_path: Path) -> None:
    from diffusers import (
        DiffusionPipeline,
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )

    pipe = StableDiffusion3Pipeline(
        SD3Transformer2DModel.from_pretrained(tiny_sd3),
        **parts(FlowMatchEulerDiscreteScheduler(shift=3.0)),
        text_encoder_3=None,
        tokenizer_3=None,
    )
    pipe.save_pretrained(tmp_path / "pipe")
    out = make(tmp_path / "pipe", EDITS["sd3"]["pairs"] + EDITS["sd3"]["own attention"], subfolder="transformer")
    again = DiffusionPipeline.from_pretrained(out, **dict.fromkeys((*NAMES, "text_encoder_3", "tokenizer_3")))
    assert type(again.transformer).__name__ == "GraftedSD3Transformer2DModel"
    said = {"prompt_embeds": draw(1, 5, 24), "pooled_prompt_embeds": draw(1, 20, seed=1)}
    images = again(
        **said, guidance_scale=1.0, num_inference_steps=2, height=8, width=8, output_type="np",
        generator=torch.Generator().manual_seed(0),
    ).images  # fmt: skip
    assert images.shape == (1, 8, 8, 3)
    assert torch.equal(run(again.transformer, "sd3"), run(archspec.load(out), "sd3"))


def test_a_compiled_pipeline_of_flux_draws(tiny_flux: Path, make: Make, tmp_path: Path) -> None:
    from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    host = FluxTransformer2DModel.from_pretrained(tiny_flux)
    pipe = FluxPipeline(**parts(FlowMatchEulerDiscreteScheduler()), transformer=host)
    pipe.save_pretrained(tmp_path / "pipe")
    out = make(tmp_path / "pipe", EDITS["flux"]["pairs"] + EDITS["flux"]["mlps"], subfolder="transformer")
    again = DiffusionPipeline.from_pretrained(out, **dict.fromkeys(NAMES))
    assert type(again.transformer).__name__ == "GraftedFluxTransformer2DModel"
    images = again(
        prompt_embeds=draw(1, 5, 24), pooled_prompt_embeds=draw(1, 20, seed=1), num_inference_steps=2, height=8,
        width=8, output_type="np", generator=torch.Generator().manual_seed(0),
    ).images  # fmt: skip
    assert images.shape == (1, 8, 8, 3)


SPEC = """
archspec: 1
name: two-streams
base: {host}
data: {{from: data.safetensors, kind: latents}}
edits:
  - replace: blocks.mlp
    with: {{op: mlp, ratio: 2}}
    init: {{kind: least_squares, samples: 256}}
  - replace: blocks[0:2].context_mlp
    with: {{op: mlp, ratio: 2}}
    init: {{kind: least_squares, samples: 256}}
  - parallelize: {group}[-2:]
    by: 2
    init: {{kind: least_squares, samples: 256}}
distill: {{samples: 32, epochs: 2, batch: 16, lr: 1e-3, loss: {{mlp: l2, block: l1}}}}
finetune: {{steps: 4, batch: 8, distill_weight: 0.5, objective: flow{lora}}}
"""


@pytest.mark.parametrize(("host", "group"), [("sd3", "blocks"), ("flux", "blocks"), ("flux", "single_blocks")])
def test_plans_teach_both_streams(host: str, group: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    from archspec.compiler.driver import compile_spec
    from archspec.runtime.execution.execute import execute, read_plan
    from archspec.runtime.execution.workspace import Workspace

    data = {"x": draw(240, 4, 8, 8), "caption": draw(240, 5, 24, seed=1), "pooled": draw(240, 20, seed=2)}
    save_file(data, tmp_path / "data.safetensors")
    lora = ", lora: 2" if group == "single_blocks" else ""
    spec = SPEC.format(host=request.getfixturevalue(f"tiny_{host}"), group=group, lora=lora)
    (tmp_path / "spec.yaml").write_text(spec)
    compile_spec(tmp_path / "spec.yaml", tmp_path / "out")
    before = archspec.load(tmp_path / "out").state_dict()
    assert execute(tmp_path / "out", device="cpu").complete
    plan, workspace = read_plan(tmp_path / "out"), Workspace(tmp_path / "out")
    outcomes = {t.id: workspace.report(t.key)["outcomes"][0] for t in plan.tasks if t.kind == "fit"}
    assert len(outcomes) == (4 if host == "sd3" else 3) + 2 + 1
    assert all(outcome["after"] < outcome["before"] for outcome in outcomes.values())
    losses = {len(task.sites): task.settings["loss"] for task in plan.tasks if task.kind == "regress"}
    assert losses == {1: "l2", 2: "l1"}
    after = archspec.load(tmp_path / "out").state_dict()
    changed = {name for name, tensor in before.items() if not torch.equal(after[name], tensor)}
    assert sum("ff_context" in name and name.endswith("up.weight") for name in changed) == 2
    merges = {name.split(".")[-2] for name in before if ".merge" in name and name.endswith("weight")}
    assert merges == ({"merge"} if host == "sd3" else {"merge", "merge_encoder_hidden_states"})
    assert {name for name in before if ".merge" in name} <= changed


TAUGHT = """
archspec: 1
name: joint
base: {host}
data: {{from: data.safetensors, kind: latents}}
edits:
  - replace: blocks[0].joint_attn
    with: {{op: local_attention, window: 1}}
    init: {{kind: least_squares, samples: 256}}
  - replace: blocks[-1].joint_attn
    with: hyena_x
    init: {{kind: least_squares, samples: 256}}
  - replace: blocks[1].joint_attn
    with: attention
    init: random
distill: {{samples: 32, epochs: 2, batch: 16, lr: 1e-3, gate_weighted: true, cache: {cache}}}
expect: [params <= 1.1x]
"""


@pytest.mark.parametrize(("host", "cache"), [("sd3", "2GiB"), ("flux", "0")])
def test_plans_teach_joint_attention(host: str, cache: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Closed forms have a read-out for each stream; every map learns, from both outputs, weighed by both gates."""
    from archspec.compiler.driver import compile_spec
    from archspec.runtime.execution.execute import execute, read_plan
    from archspec.runtime.execution.workspace import Workspace

    data = {"x": draw(240, 4, 8, 8), "caption": draw(240, 5, 24, seed=1), "pooled": draw(240, 20, seed=2)}
    save_file(data, tmp_path / "data.safetensors")
    (tmp_path / "spec.yaml").write_text(TAUGHT.format(host=request.getfixturevalue(f"tiny_{host}"), cache=cache))
    compile_spec(tmp_path / "spec.yaml", tmp_path / "out")
    before = archspec.load(tmp_path / "out").state_dict()
    assert execute(tmp_path / "out", device="cpu").complete
    plan, workspace = read_plan(tmp_path / "out"), Workspace(tmp_path / "out")
    found = {task.id: (task, workspace.report(task.key)["outcomes"][0]) for task in plan.tasks}
    fits = [name for name in found if name.startswith("fit/")]
    assert len(fits) == 2
    assert all(found[name][1]["after"] < found[name][1]["before"] for name in fits)
    own, both = (found[name][0].cost.cache_bytes for name in (fits[-1], fits[0]))
    assert both == (2 * own if host == "sd3" else own), "the last block of SD3 fits one read-out"
    assert {task.settings["loss"] for task, _ in found.values() if task.kind == "regress"} == {"l1"}
    after = archspec.load(tmp_path / "out").state_dict()
    new = {name for name in before if name.startswith("transformer_blocks.1.attn.")}
    assert any(".beside." in name for name in new)
    assert all(not torch.equal(before[name], after[name]) for name in new)


@pytest.mark.parametrize("host", EDITS)
def test_samples_are_those_of_the_pipeline(host: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Same noise, times and captions: times that are shifted by the number of tokens, guidance that FLUX is told."""
    import diffusers

    model = open_model(home(request.getfixturevalue(f"tiny_{host}")))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=host == "flux")
    rest: dict[str, Any] = {"text_encoder_3": None, "tokenizer_3": None} if host == "sd3" else {}
    name = "StableDiffusion3Pipeline" if host == "sd3" else "FluxPipeline"
    pipe: Any = getattr(diffusers, name)(**parts(scheduler), transformer=model, **rest)
    pipe.save_pretrained(tmp_path)
    place, size, guidance = home(tmp_path), 8 if host == "sd3" else 12, 1.0 if host == "sd3" else 2.5
    texts, pooled = draw(2, 5, 24), draw(2, 20, seed=1)
    said = {"caption": texts, "pooled": pooled}
    asked = Request(samples=2, steps=3, guidance=guidance, texts=said, size=size)
    found = sample(model, place, asked)
    seeds = [torch.Generator().manual_seed(g.initial_seed()) for g in first_noise(0, 0, 2, ())[1]]
    pipe.set_progress_bar_config(disable=True)
    drawn = pipe(
        prompt_embeds=texts, pooled_prompt_embeds=pooled, guidance_scale=guidance, num_inference_steps=3, height=size,
        width=size, output_type="latent", generator=seeds,
    ).images  # fmt: skip
    drawn = drawn if host == "sd3" else Packing(16).unpack(drawn, size // 2)
    torch.testing.assert_close(found, drawn, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("host", "size"), [("sd3", 7), ("sd3", 1024), ("flux", 9)])
def test_sizes_that_are_not_drawn(host: str, size: int, request: pytest.FixtureRequest) -> None:
    place = home(request.getfixturevalue(f"tiny_{host}"))
    with pytest.raises(ArchspecError) as caught:
        sample(open_model(place), place, Request(samples=1, steps=1, size=size))
    assert caught.value.diagnostics[0].code == "AS352"


def test_flux_is_measured_beside_its_host(tiny_flux: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the size of its pipeline, here a smaller one."""
    from archspec.runtime.measure import sample as module
    from archspec.runtime.measure.evaluate import evaluate

    monkeypatch.setattr(module, "FLUX_SIDE", 8)
    out = make(tiny_flux, '  - {replace: "blocks[0].joint_attn", with: {op: local_attention, window: 1}}\n')
    found = evaluate(out, tiny_flux, {"samples": 2, "steps": 2, "metrics": ["paired"]}, out)
    assert 0 < found["result"]["paired"] < 1
    assert evaluate(tiny_flux, tiny_flux, {"samples": 2, "steps": 2}, out)["result"]["paired"] == 0


def test_sd3_is_fed_texts_twice(tiny_sd3: Path) -> None:
    objective = make_objective(home(tiny_sd3))
    batch = {"x": draw(2, 4, 8, 8), "caption": draw(2, 5, 24), "pooled": draw(2, 20)}
    keywords, target = objective.inputs(batch, generator(0))
    assert (objective.name, target.shape) == ("flow", (2, 4, 8, 8))
    assert torch.equal(keywords["pooled_projections"], batch["pooled"])
    assert float(keywords["timestep"].max()) > 1
    assert objective.output(open_model(home(tiny_sd3))(**keywords)).shape == target.shape
    nothing = make_objective(home(tiny_sd3), label_dropout=1.0).inputs(batch, generator(0))[0]
    assert float(nothing["pooled_projections"].abs().max()) == 0
    assert keywords.keys() == {"hidden_states", "timestep", "encoder_hidden_states", "pooled_projections"}


def test_flux_is_fed_as_its_pipeline_does(tiny_flux: Path) -> None:
    from diffusers import FluxPipeline

    objective: Any = make_objective(home(tiny_flux))
    x = draw(2, 4, 8, 6)
    keywords, target = objective.inputs({"x": x, "caption": draw(2, 5, 24)}, generator(0))
    assert objective.packing.pack(x).equal(FluxPipeline._pack_latents(x, 2, 4, 8, 6))
    assert objective.packing.unpack(objective.packing.pack(x), 4).equal(x)
    assert keywords["img_ids"].equal(FluxPipeline._prepare_latent_image_ids(2, 4, 3, "cpu", torch.float32))
    assert keywords["img_ids"].equal(places(4, 3))
    assert 0 < float(keywords["timestep"].min()) < float(keywords["timestep"].max()) < 1
    assert keywords["guidance"].tolist() == [3.5, 3.5]
    assert objective.output(open_model(home(tiny_flux))(**keywords)).shape == target.shape == (2, 12, 16)
    with pytest.raises(ArchspecError, match="4 channels and even sides"):
        objective.inputs({"x": draw(2, 3, 8, 8)}, generator(0))


class Feed:
    """Fixed inputs of a tiny host."""

    batch = 2

    def __init__(self, host: Any, name: str) -> None:
        self.host, self.name = host, name

    def batches(self, count: int) -> Any:
        yield 0, example(self.host, self.name)


@pytest.mark.parametrize("host", EDITS)
def test_probes_see_the_own_stream(host: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(f"tiny_{host}")
    model, structure = open_model(home(folder)), structure_of(Located(folder))
    feed: Any = Feed(model, host)
    found = measure(model, structure, feed, parse_measures(["influence", "deviation"]), 2)
    blocks = [site.path for site in structure.sites if site.slot == "block"]
    assert list(found["influence"]) == blocks
    seen: list[tuple[Tensor, Tensor]] = []
    handle = model.get_submodule(blocks[0]).register_forward_hook(
        lambda _, __, kwargs, y: seen.append((kwargs["hidden_states"], y[1])), with_kwargs=True
    )
    run(model, host)
    handle.remove()
    ((x, y),) = seen
    wanted = 1 - torch.nn.functional.cosine_similarity(x, y, dim=-1).mean()
    assert found["influence"][blocks[0]]["mean"] == pytest.approx(float(wanted), rel=1e-4)
    slots = {site.slot for site in structure.sites if site.path in found["deviation"]}
    assert slots == {"block", "joint_attn", "attn", "mlp", "context_mlp"}
