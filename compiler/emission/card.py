"""The model card of a compiled checkpoint: what was changed, what it costs, how good it is, how to load it.

`card` gives the README.md: YAML front matter for the hub, then tables made from the same records that the lock holds.
Quality stands there only when it has been measured; `archspec run` writes the card anew when it has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from archspec.host.structure import Structure
from archspec.instructions import Install, Instruction, Relist, Share
from archspec.plan import Plan
from archspec.runtime.model.program import PREFIX
from archspec.semantics.resolve import ResolvedSpec


@dataclass(frozen=True)
class Row:
    """One line of the cost table, as text."""

    what: str
    host: str
    result: str
    ratio: str


def card(
    resolved: ResolvedSpec,
    program: Sequence[Instruction],
    costs: Sequence[Row],
    plan: Plan,
    expectations: Sequence[tuple[str, str, bool]] = (),
    measured: Mapping[str, Any] | None = None,
) -> str:
    """Return the Markdown text. `expectations`: text, value found, whether it holds."""
    spec, structure = resolved.spec, resolved.structure
    about = [spec.description] if spec.description else []
    source = f"`{spec.base.from_}`" if spec.base else "its base"
    if spec.base and spec.base.weights == "random":
        source += f" with random weights (seed {spec.base.seed})"
    parts = [
        _front_matter(resolved, program),
        f"# {spec.name}",
        *about,
        f"{structure.architecture} of {source}, edited by [archspec](https://pypi.org/project/archspec-compiler/).",
        "## What changed",
        _changes(structure, program),
        "## Cost",
        _table(("", "base", "result", "ratio"), [(r.what, r.host, r.result, r.ratio) for r in costs]),
        "## Quality",
        _quality(plan, measured),
        *_expectations(expectations),
        "## Use",
        _usage(resolved),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(resolved: ResolvedSpec, program: Sequence[Instruction]) -> str:
    base, structure = resolved.spec.base, resolved.structure
    operators = sorted({i.operator for i in program if isinstance(i, Install) and not i.is_exit})
    found: dict[str, Any] = {"library_name": structure.library}
    if base and base.weights == "stored" and _is_hub_id(base.from_):
        found |= {"base_model": base.from_, "base_model_relation": "finetune"}
    found["tags"] = ["archspec", "grafted", *(name.replace("_", "-") for name in operators)]
    return f"---\n{yaml.safe_dump(found, sort_keys=False)}---"


def _is_hub_id(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


def _changes(structure: Structure, program: Sequence[Instruction]) -> str:
    rows = list(_rows(structure, program))
    return _table(("site", "change"), rows) if rows else "Nothing: this is the base as it is."


def _rows(structure: Structure, program: Sequence[Instruction]) -> Iterator[tuple[str, str]]:
    for instruction in program:
        match instruction:
            case Install() if not instruction.is_exit:
                settings = ", ".join(f"{k}={v}" for k, v in instruction.config.items())
                yield _name(structure, instruction.path), f"`{instruction.operator}({settings})`"
            case Share():
                yield _name(structure, instruction.path), f"uses the weights of {_name(structure, instruction.to)}"
            case Relist():
                yield from _list_rows(structure, instruction)


def _list_rows(structure: Structure, relist: Relist) -> Iterator[tuple[str, str]]:
    """Say what became of the blocks of one list."""
    used = {member for entry in relist.entries for member in entry.members}
    yield f"`{relist.path}`", f"{relist.length} blocks in the base, {len(relist.entries)} in the result"
    for index in range(relist.length):
        if index not in used:
            yield _name(structure, f"{relist.path}.{index}"), "removed"
    for position, entry in enumerate(relist.entries):
        names = ", ".join(_name(structure, f"{relist.path}.{member}") for member in entry.members)
        if entry.operator:
            yield names, f"followed by `{entry.operator.operator}` in a residual branch, at {position}"
        elif entry.skip is not None:
            source = _name(structure, f"{relist.path}.{entry.skip}")
            yield names, f"reads the output of {source} as well, merged by `{entry.merge}`"
        elif entry.form == "parallel":
            yield names, f"side by side, merged by `{entry.merge}`, at {position}"
        elif entry.form != "keep":
            yield (
                names,
                f"once more at {position}, " + ("same weights" if entry.form == "tie" else "weights of its own"),
            )


def _name(structure: Structure, path: str) -> str:
    site = structure.site(path)
    return f"`{site.name if site else path}`"


def _quality(plan: Plan, measured: Mapping[str, Any] | None) -> str:
    if measured:
        rows = [
            (f"{key}", f"{value:.4g}" if isinstance(value, float) else f"{value}") for key, value in measured.items()
        ]
        return _table(("measure", "value"), rows)
    if plan.tasks:
        return f"Not measured. The new parts are not trained yet: `archspec run` executes {len(plan.tasks)} tasks."
    return "Not measured."


def _expectations(found: Sequence[tuple[str, str, bool]]) -> Iterator[str]:
    if found:
        yield "## Expectations"
        yield _table(
            ("expected", "found", ""), [(f"`{text}`", value, "yes" if ok else "no") for text, value, ok in found]
        )


def _usage(resolved: ResolvedSpec) -> str:
    structure, spec = resolved.structure, resolved.spec
    lines = ["import archspec", "", 'model = archspec.load("PATH")']
    if structure.library == "transformers":
        auto = "AutoModelForCausalLM" if structure.architecture.endswith("ForCausalLM") else "AutoModel"
        lines += ["", f"from transformers import {auto}", "", f'model = {auto}.from_pretrained("PATH")']
    elif spec.base and spec.base.subfolder:
        lines += ["", "from diffusers import DiffusionPipeline", "", 'pipe = DiffusionPipeline.from_pretrained("PATH")']
    else:
        lines += ["", f'model = archspec.{PREFIX}{structure.architecture}.from_pretrained("PATH")']
    return "```python\n" + "\n".join(lines) + "\n```"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
