"""A tiny Llama with a tokenizer, three packs of it, and a router by its own embeddings of three kinds of prompts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from archspec.compiler.routing.make import route_spec
from tests.packs import packed, rules, tuned_from

WORDS = ("select", "count", "users", "rows", "sort", "list", "loop", "print", "hello", "how", "are", "you")
EXAMPLES = {
    "sql": ["select users", "count rows", "count users", "select rows", "select count users"],
    "code": ["sort list", "loop list", "print list", "loop print", "sort print loop"],
    "chat": ["hello you", "how are you", "hello hello", "are you how"],
}


def with_tokenizer(folder: Path, home: Path) -> Path:
    """Return a copy of a host of 64 tokens with a tokenizer of a few words; the other tokens are w15 to w63."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    copy = home / folder.name
    shutil.copytree(folder, copy)
    words = ("[PAD]", "[BOS]", "[EOS]", *WORDS, *(f"w{i}" for i in range(15, 64)))
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "[PAD]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = {"pad_token": "[PAD]", "bos_token": "[BOS]", "eos_token": "[EOS]", "unk_token": "[PAD]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(copy)
    return copy


def write_spec(shop: Path, name: str, settings: str, tasks: str | None = None) -> Path:
    """Write a spec that routes; `tasks` as YAML, by default sql, code and chat (the base), with examples."""
    if tasks is None:
        packs = {"sql": "[sql.skillpack.safetensors]", "code": "[code.skillpack.safetensors]", "chat": "[]"}
        tasks = ", ".join(f"{{name: {t}, packs: {p}, examples: {t}.txt}}" for t, p in packs.items())
    path = shop / f"{name}.yaml"
    path.write_text(f"name: {name}\nbase: ./base\nroute: {{{settings}, tasks: [{tasks}]}}\n", "utf-8")
    return path


def routed_by(shop: Path, name: str, settings: str, tasks: str | None = None) -> Path:
    out = shop / f"{name}.router.safetensors"
    route_spec(write_spec(shop, name, settings, tasks), out)
    return out


@pytest.fixture(scope="session")
def shop(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `base`, packs sql, code and law, and files of examples."""
    folder = tmp_path_factory.mktemp("routing")
    with_tokenizer(tiny_llama, folder).rename(folder / "base")
    for rank, name in enumerate(("sql", "code", "law"), 2):
        tuned = tuned_from(folder / "base", folder / f"{name}-tuned", size=0.1, rank=rank)
        packed(folder, folder / "base", f"{{tuned: {tuned}, {rules(folder / 'base', '[dense]')}}}", name)
    for task, lines in EXAMPLES.items():
        (folder / f"{task}.txt").write_text("\n".join(lines) + "\n", "utf-8")
    return folder
