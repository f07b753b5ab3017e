"""Injections on tiny hosts of every family: off-switches, donors untouched, two donors, masks, caches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from archspec.diagnostics import ArchspecError
from archspec.injection import Donor, Gate, Graft, Injection, Match
from archspec.runtime.families import family
from archspec.runtime.features.donors import Clean, DonorInput, Noised, Trajectory
from archspec.runtime.features.injecting import inject
from archspec.runtime.packing import places

FAMILIES = ("dit", "pixart", "sd3", "flux")
Make = Callable[[str], "Host"]


@dataclass
class Host:
    """A tiny host with two samples to draw, and a donor."""

    name: str
    model: Any
    inputs: dict[str, Any]
    donor: DonorInput
    sites: tuple[str, ...]
    tokens: int

    def __call__(self, rows: int = 2, **changes: Any) -> Tensor:
        given = {k: _first(v, rows, self.name, k) for k, v in (self.inputs | changes).items()}
        with torch.no_grad():
            found: Tensor = self.model(**given, return_dict=False)[0]
        return found

    def beside(self, donor: DonorInput) -> Tensor:
        """Return what the host makes of two samples and the donor as a third, without any injection."""
        assert donor.latents is not None
        rows = {}
        for key, value in self.inputs.items():
            own = {"hidden_states": donor.latents.at(0.5), **donor.condition}.get(key)
            rows[key] = value if own is None else torch.cat([_first(value, 2, self.name, key), own])
        return self(3, **rows)


def _first(value: Any, rows: int, name: str, key: str) -> Any:
    whole = not isinstance(value, Tensor) or key in ("img_ids", "txt_ids") or value.ndim == 0
    return value if whole else value[:rows]


@pytest.fixture(scope="module")
def make(tiny_dit: Path, tiny_pixart: Path, tiny_sd3: Path, tiny_flux: Path) -> Make:
    import diffusers

    folders = {"dit": tiny_dit, "pixart": tiny_pixart, "sd3": tiny_sd3, "flux": tiny_flux}
    classes = {"dit": "DiT", "pixart": "PixArt", "sd3": "SD3", "flux": "Flux"}
    found: dict[str, Host] = {}

    def host(name: str) -> Host:
        if name not in found:
            model = getattr(diffusers, f"{classes[name]}Transformer2DModel").from_pretrained(folders[name])
            found[name] = _host(name, model.double().eval())
        return found[name]

    return host


def _host(name: str, model: Any) -> Host:
    tokens = 24 if name == "flux" else None
    inputs = family(name).example(model, 3, 16 if name == "flux" else tokens, dtype=torch.float64, seed=1)
    half = 0.5 if name == "flux" else 500.0
    inputs["timestep"] = torch.full((3,), half, dtype=torch.float64 if name == "flux" else torch.long)
    if name == "flux":  # 4 rows and 6 columns: no square, no power of two
        inputs["hidden_states"] = torch.randn(3, 24, inputs["hidden_states"].shape[-1]).double()
        inputs["img_ids"] = places(4, 6).double()
    latents = inputs["hidden_states"][2:]
    condition = {
        key: value[2:]
        for key, value in inputs.items()
        if isinstance(value, Tensor) and key not in ("hidden_states", "timestep", "img_ids", "txt_ids")
    }
    donor = DonorInput(Trajectory({0.5: latents}), condition)
    attention = {"dit": "attn1", "pixart": "attn1"}.get(name, "attn")
    sites = tuple(f"transformer_blocks.{i}.{attention}" for i in range(3))
    sites += tuple(f"single_transformer_blocks.{i}.attn" for i in range(4)) if name == "flux" else ()
    count = 24 if name == "flux" else (model.config.sample_size // model.config.patch_size) ** 2
    return Host(name, model, inputs, donor, sites, count)


def program(host: Host, **changes: Any) -> Injection:
    position = "matched" if host.name == "flux" else "same"
    fields: dict[str, Any] = {"match": Match(), "position": position} | changes
    return Injection((Graft("append", host.sites, ("it",), **fields),), {"it": Donor()})


@pytest.mark.parametrize("name", FAMILIES)
def test_a_graft_changes_the_target_and_not_the_donor(make: Make, name: str) -> None:
    host = make(name)
    plain = host.beside(host.donor)
    seen: list[Tensor] = []
    with inject(host.model, program(host), {"it": host.donor}) as run:
        handle = host.model.register_forward_hook(lambda _, args, out: seen.append(out[0]), prepend=True)
        found = host()
        handle.remove()
        assert run.session.taken
    assert torch.equal(seen[0][2:], plain[2:]), "the donor's row is the host's own, bit by bit"
    assert (found - plain[:2]).abs().max() > 1e-6
    other = dict(host.inputs)
    other["hidden_states"] = -other["hidden_states"]
    with inject(host.model, program(host), {"it": host.donor}):
        handle = host.model.register_forward_hook(lambda _, args, out: seen.append(out[0]), prepend=True)
        host(**other)
        handle.remove()
    assert torch.equal(seen[1][2:], plain[2:]), "whatever the target is"
    assert torch.equal(host.beside(host.donor), plain), "and nothing is left on the host"


OFF: Mapping[str, dict[str, Any]] = {
    "empty mask": {},
    "threshold": {"match": Match(threshold=1.01)},
    "no sites": {"sites": ()},
    "no steps": {"steps": (0, 0)},
    "no times": {"times": (0.4, 0.0)},
    "no strength": {"strength": float("-inf")},
    "no weight": {"weight": 0.0},
    "all dropped": {"gate": Gate(dropout=1.0, law="constant")},
}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("switch", OFF)
def test_off_switches_change_no_bit(make: Make, name: str, switch: str) -> None:
    host = make(name)
    injection = program(host)
    graft = replace(injection.grafts[0], **OFF[switch])
    mask = torch.zeros(host.tokens, dtype=torch.bool) if switch == "empty mask" else None
    with inject(host.model, replace(injection, grafts=(graft,)), {"it": replace(host.donor, mask=mask)}):
        found = host()
    assert torch.equal(found, host.beside(host.donor)[:2])


@pytest.mark.parametrize("name", FAMILIES)
def test_a_mask_is_not_written_to(make: Make, name: str) -> None:
    host = make(name)
    mask = torch.arange(host.tokens) % 2 == 0
    before = mask.clone()
    injection = program(host, match=Match(threshold=0.0), gate=Gate(dropout=0.5, law="constant"))
    with inject(host.model, injection, {"it": replace(host.donor, mask=mask)}) as run:
        for _ in range(3):
            host()
        assert max(run.session.taken.values()) <= int(before.sum())
    assert torch.equal(mask, before)


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_two_donors_are_one_with_both_masks(make: Make, name: str) -> None:
    host = make(name)
    left = torch.arange(host.tokens) < host.tokens // 2
    graft = program(host).grafts[0]
    donors = {"a": Donor(), "b": Donor()}
    two = Injection((replace(graft, donors=("a", "b")),), donors)
    swapped = Injection((replace(graft, donors=("b", "a")),), donors)
    masked = {"a": replace(host.donor, mask=left), "b": replace(host.donor, mask=~left)}
    found = []
    for injection in (two, swapped):
        with inject(host.model, injection, masked):
            found.append(host())
    with inject(host.model, program(host), {"it": host.donor}):
        found.append(host())
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(found[0], found[2], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_cached_donor_gives_the_same_and_runs_no_more(make: Make, name: str) -> None:
    host = make(name)
    grafts = (
        program(host).grafts[0],
        replace(program(host).grafts[0], op="blend", match=None, position="same", weight=0.5),
        replace(program(host).grafts[0], op="copy", match=None, position="same", weight=0.5),
        replace(program(host).grafts[0], op="adain", match=None, position="same", weight=0.5),
    )
    injection = Injection(grafts, {"it": Donor()}, cache=10**9)
    with inject(host.model, injection, {"it": host.donor}) as run:
        rows = []
        handle = host.model.get_submodule(host.sites[0]).register_forward_pre_hook(
            lambda _, args, kwargs: rows.append(len((args or tuple(kwargs.values()))[0])), with_kwargs=True
        )
        first = host()
        run.restart()
        second = host()
        handle.remove()
    assert rows == [3, 2]
    torch.testing.assert_close(first, second, rtol=0, atol=1e-12)
    with inject(host.model, replace(injection, cache=1000), {"it": host.donor}) as run:
        host()
        third = host()
        assert run.session.store.size <= 1000
        assert not run.session.store.complete
    torch.testing.assert_close(first, third, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["dit", "flux"])
def test_a_sample_of_the_batch_can_be_the_donor(make: Make, name: str) -> None:
    host = make(name)
    injection = replace(program(host), donors={"it": Donor("batch", row=0)})
    plain = host()
    with inject(host.model, injection, {"it": DonorInput()}):
        found = host()
    assert torch.equal(found[0], plain[0])
    assert (found[1] - plain[1]).abs().max() > 1e-6


def test_guidance_may_graft_the_conditional_branch_alone(make: Make) -> None:
    host = make("flux")
    injection = program(host, rows="conditional")
    plain = host.beside(host.donor)[:2]
    with inject(host.model, injection, {"it": host.donor}, guided=True):
        found = host()
    assert torch.equal(found[0], plain[0])
    assert (found[1] - plain[1]).abs().max() > 1e-6


@pytest.mark.parametrize("name", FAMILIES)
def test_replacing_an_identical_samples_own_keys_changes_nothing(make: Make, name: str) -> None:
    host = make(name)
    same = {key: value[:1] for key, value in host.inputs.items() if key in host.donor.condition}
    donor = DonorInput(Trajectory({0.5: host.inputs["hidden_states"][:1]}), same)
    with inject(host.model, program(host, match=None, position="same"), {"it": donor}):
        appended = host(1)
    injection = program(host, match=None, position="same")
    graft = replace(injection.grafts[0], op="replace")
    with inject(host.model, replace(injection, grafts=(graft,)), {"it": donor}):
        replaced = host(1)
    torch.testing.assert_close(replaced, host(1), rtol=0, atol=1e-12)
    if name in ("sd3", "flux"):  # without a context every key is doubled, which changes nothing
        assert (appended - host(1)).abs().max() > 1e-6


def test_a_key_at_its_match_is_rotated_for_that_place(make: Make) -> None:
    """A target that is the donor rolled by two columns, with matched places, has the scores of the donor unrolled."""
    from diffusers.models.embeddings import apply_rotary_emb

    from archspec.runtime.features.positions import Tables

    host = make("flux")
    where = places(5, 7).double()
    make_table = host.model.get_submodule("pos_embed")
    table = make_table(where)
    rotary = Tables(table, slice(0, 35), lambda x, own: apply_rotary_emb(x, own, sequence_dim=2), where, make_table)
    size = table[0].shape[-1]
    q, k = (torch.randn(2, 35, size, generator=torch.Generator().manual_seed(i)) for i in range(2))
    tokens = torch.randperm(35, generator=torch.Generator().manual_seed(2))
    at = rotary.at(k, tokens)
    rotated = rotary.own(q[None])[0][:, tokens]
    torch.testing.assert_close((rotated * at).sum(-1), (q[:, tokens] * k).sum(-1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rotary.moved(k, torch.arange(35), (0, 0), 0), rotary.own(k[None])[0], rtol=0, atol=0)
    inner = torch.tensor([8, 9, 15])
    torch.testing.assert_close(
        rotary.moved(k[:, :3], inner, (1, -1), 0), rotary.at(k[:, :3], inner + 6), rtol=0, atol=0
    )


def test_dropout_keeps_what_is_expected_and_everything_at_the_end() -> None:
    from archspec.runtime.features.gates import kept

    gate = Gate(dropout=0.4)
    share = [float(kept(gate, 20_000, t, 0, (i,), None).float().mean()) for i, t in enumerate((1.0, 0.5, 0.0))]
    assert share[0] == pytest.approx(0.6, abs=0.02)
    assert share[1] == pytest.approx(0.8, abs=0.02)
    assert share[2] == 1.0
    again = kept(gate, 100, 0.7, 0, ("a", 3), None)
    assert torch.equal(again, kept(gate, 100, 0.7, 0, ("a", 3), None))
    assert not torch.equal(again, kept(gate, 100, 0.7, 0, ("a", 4), None))


def test_noised_and_clean_donors(make: Make) -> None:
    host = make("flux")
    assert host.donor.latents is not None
    x0, noise = host.donor.latents.at(0.5), torch.ones_like(host.donor.latents.at(0.5))
    assert torch.equal(Noised(x0, noise).at(0.25), 0.75 * x0 + 0.25 * noise)
    times: list[Tensor] = []
    embed = host.model.get_submodule("time_text_embed")
    handle = embed.register_forward_pre_hook(lambda _, args: times.append(args[0]))
    with inject(host.model, program(host), {"it": replace(host.donor, latents=Clean(x0))}):
        host()
    handle.remove()
    assert times[0].tolist() == [500.0, 500.0, 0.0]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"latents": Trajectory({0.5: torch.zeros(1, 24, 3)})}, "AS755"),
        ({"latents": Trajectory({0.7: torch.zeros(1, 24, 16)})}, "AS756"),
        ({"mask": torch.ones(5, dtype=torch.bool)}, "AS754"),
        ({"condition": {"encoder_hidden_states": torch.zeros(1, 3, 24)}}, "AS755"),
    ],
)
def test_donors_that_do_not_fit_are_refused(make: Make, change: dict[str, Any], code: str) -> None:
    host = make("flux")
    with (
        inject(host.model, program(host), {"it": replace(host.donor, **change)}),
        pytest.raises(ArchspecError) as error,
    ):
        host()
    assert error.value.diagnostics[0].code == code
    assert host().shape == host.inputs["hidden_states"][:2].shape, "the host is whole again"


def test_hosts_without_such_attention_are_refused(tiny_llama: Path, make: Make) -> None:
    from transformers import LlamaForCausalLM

    with pytest.raises(ArchspecError) as error:
        inject(LlamaForCausalLM.from_pretrained(tiny_llama), Injection(()), {})
    assert error.value.diagnostics[0].code == "AS757"
    host = make("flux")
    injection = program(host)
    graft = replace(injection.grafts[0], sites=("transformer_blocks.0.ff",))
    with pytest.raises(ArchspecError) as error, inject(host.model, replace(injection, grafts=(graft,)), {}):
        pass
    assert error.value.diagnostics[0].code == "AS758"


def test_a_host_that_was_never_saved_is_known_by_its_class() -> None:
    from diffusers import DiTTransformer2DModel

    model = DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=8, num_layers=1, sample_size=8)
    with inject(model, Injection(()), {}) as run:
        assert run.port.times == 1000.0


def test_an_injection_is_data(make: Make) -> None:
    injection = program(make("flux"))
    assert Injection.from_json(injection.to_json()) == injection
    wrong: Any
    for wrong in (
        {"grafts": [{"op": "no"}]},
        {"grafts": 3},
        {"grafts": [], "more": 1},
        [],
        {"grafts": [], "version": 9},
    ):
        with pytest.raises(ValueError, match=r"injection|version"):
            Injection.from_json(wrong)
