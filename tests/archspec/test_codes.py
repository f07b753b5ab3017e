"""Every code is documented, raised somewhere, and declared before it is used."""

import re
from functools import cache
from pathlib import Path

import pytest

from archspec.codes import FILES, table

ROOT = Path(__file__).parents[2]
CODE = re.compile(r"\bAS\d{3}\b")


@cache
def used() -> dict[str, str]:
    """Return code -> a source file that uses it, the tables of codes left out."""
    files = [p for folder in ("archspec", "compiler", "runtime") for p in (ROOT / folder).rglob("*.py")]
    sources = [p for p in files if "codes" not in p.relative_to(ROOT).parts]
    quoted = re.compile(r'"(AS\d{3})"')
    return {code: str(p.relative_to(ROOT)) for p in sources for code in quoted.findall(p.read_text())}


@pytest.mark.parametrize("code", table())
def test_every_code_is_documented(code: str) -> None:
    entry = table()[code]
    assert entry.title
    assert entry.title[0].islower() or entry.title.split()[0].isupper()
    assert not entry.title.endswith(".")
    assert len(entry.explanation) > 20
    assert entry.explanation.rstrip().endswith((".", "`.", ".)"))
    assert entry.bad
    assert entry.good
    assert entry.bad != entry.good


@pytest.mark.parametrize("code", table())
def test_every_code_is_raised_somewhere(code: str) -> None:
    assert code in used(), f"{code} is declared and never raised"


def test_no_code_is_used_undeclared() -> None:
    assert {code: place for code, place in used().items() if code not in table()} == {}


def test_codes_stand_in_the_file_of_their_stage() -> None:
    for stage, file in enumerate(FILES, 1):
        text = (ROOT / "archspec" / "codes" / f"{file}.py").read_text()
        declared = re.findall(r'^\s+(?:id=)?"(AS\d{3})",$', text, re.MULTILINE)
        assert [code for code in declared if code[2] != str(stage)] == []


def test_messages_name_only_declared_codes() -> None:
    pages = [text for entry in table().values() for text in (entry.explanation, entry.bad, entry.good)]
    named = {code for page in pages for code in CODE.findall(page)} - {"AS999"}
    assert named <= set(table())
