"""Files to specs: reading, suffixes, `extends` across folders and spellings."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from archspec.diagnostics import ArchspecError, Collector, Diagnostic
from archspec.language.parse import load, load_members, load_source, load_tree, parse_tree, read_source
from archspec.language.stages import Data, Finetune
from archspec.source import Source
from archspec.syntax.fmt import format_dsl, format_yaml
from archspec.syntax.tree import plain
from archspec.syntax.yaml_syntax import MAX_SIZE

FOLDER = Path(__file__).parents[2] / "specs" / "examples"
EXAMPLES = sorted(path for path in FOLDER.iterdir() if path.suffix in (".yaml", ".arch"))


def write(folder: Path, **files: str) -> Path:
    """Write files, `__` standing for `/` and `_` before the suffix for `.`; return the first."""
    paths = []
    for name, text in files.items():
        stem, _, suffix = name.replace("__", "/").rpartition("_")
        path = folder / f"{stem}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return paths[0]


def refusal(path: Path | str) -> Diagnostic:
    with pytest.raises(ArchspecError) as caught:
        load(path)
    return caught.value.diagnostics[0]


def place(diagnostic: Diagnostic) -> tuple[str, str, int, int]:
    assert diagnostic.primary
    span = diagnostic.primary.span
    return diagnostic.code, Path(span.source.name).name, span.line, span.column


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_are_formatted_and_the_same_in_both_spellings(path: Path) -> None:
    source = read_source(path)
    tree = parse_tree(source)
    printed = {".yaml": format_yaml(tree), ".arch": format_dsl(tree)}
    assert printed[path.suffix] == source.text
    texts = [Source(str(path.with_suffix(suffix)), text) for suffix, text in printed.items()]
    for member in load_members(path, Collector()):
        mine, *others = (load_source(text, member.id or None) for text in (source, *texts))
        assert mine.base is not None
        assert others == [mine, mine]


def test_maps_merge_lists_and_scalars_replace(tmp_path: Path) -> None:
    child = write(
        tmp_path,
        child_yaml="name: child\nextends: parent.arch\nfinetune: {steps: 7, data: {fraction: 10%}}\nexpect: [causal]\n"
        "let: {b: 'blocks[1]'}\ndistill: none\n",
        parent_arch='spec "parent" {\n description "said"\n base "a/b" { subfolder = "s" }\n let a = blocks[0]\n'
        " drop a\n distill { samples = 3 }\n finetune { steps = 5; batch = 2; data = digits }\n"
        " expect { depth == 1; causal }\n}",
    )
    found = load(child)
    assert (found.name, found.description) == ("child", "said")
    assert found.base
    assert (found.base.from_, found.base.subfolder) == ("a/b", "s")
    assert sorted(found.let) == ["a", "b"]
    assert [edit.verb for edit in found.edits] == ["drop"]
    assert found.distill is None
    assert found.finetune == Finetune(steps=7, batch=2, data=Data(from_="digits", fraction=0.1))
    assert [expectation.text for expectation in found.expect] == ["causal"]


def test_a_removed_stanza_is_not_in_the_tree(tmp_path: Path) -> None:
    child = write(tmp_path, child_yaml="name: c\nextends: p.yaml\neval: none", p_yaml="name: p\neval: {steps: 3}")
    assert plain(load_tree(child)) == {"name": "c", "extends": "p.yaml"}


def test_a_null_within_a_stanza_stays(tmp_path: Path) -> None:
    child = write(
        tmp_path, child_yaml="name: c\nextends: p.yaml\nfinetune: {clip: null}", p_yaml="name: p\nfinetune: {clip: 2}"
    )
    finetune = load(child).finetune
    assert finetune
    assert finetune.clip is None


def test_paths_of_a_parent_are_seen_from_the_child(tmp_path: Path) -> None:
    child = write(
        tmp_path,
        deep__er__child_yaml="name: c\nextends: ../../base/parent.yaml\neval: {classifier: ./mine}",
        base__parent_yaml="name: p\nbase: ../hosts/digits\ndata: {from: list.txt, prompts: list.txt}\n"
        "finetune: {data: digits}\neval: {classifier: ./theirs, data: /abs}\n"
        "edits: [{replace: blocks, with: mlp, init: {kind: artifact, from: ./art}}, {drop: blocks}]",
        base__list_txt="a",
    )
    found = load(child)
    assert found.base
    assert found.base.from_ == "../../hosts/digits"
    assert found.data
    assert (found.data.from_, found.data.prompts) == ("../../base/list.txt", "../../base/list.txt")
    assert found.finetune
    assert found.finetune.data == Data(from_="digits")
    assert found.eval
    assert (found.eval.classifier, found.eval.data) == ("./mine", Data(from_="/abs"))
    assert found.edits[0].init.from_ == "../../base/art"  # type: ignore[union-attr]


def test_spans_of_what_is_inherited_lead_to_the_parent(tmp_path: Path) -> None:
    child = write(tmp_path, child_yaml="name: c\nextends: p.yaml", p_yaml="name: p\neval: {stps: 3}")
    assert place(refusal(child)) == ("AS140", "p.yaml", 2, 8)


def test_circles_are_refused_at_the_word_that_closes_them(tmp_path: Path) -> None:
    child = write(
        tmp_path, a_yaml="name: a\nextends: sub/b.arch", sub__b_arch='spec "b" {\n  extends "../a.yaml"\n}',
        c_yaml="name: c\nextends: ./c.yaml",
    )  # fmt: skip
    found = refusal(child)
    assert place(found) == ("AS151", "b.arch", 2, 11)
    assert found.message.endswith(f"..{os.sep}a.yaml -> b.arch -> ..{os.sep}a.yaml")
    assert place(refusal(tmp_path / "c.yaml")) == ("AS151", "c.yaml", 2, 10)


def test_a_link_cannot_hide_a_circle(tmp_path: Path) -> None:
    child = write(tmp_path, a_yaml="name: a\nextends: link.yaml")
    (tmp_path / "link.yaml").symlink_to(child)
    assert refusal(child).code == "AS151"


def test_long_chains_are_refused(tmp_path: Path) -> None:
    files = {f"s{k}_yaml": f"name: s\nextends: s{k + 1}.yaml" for k in range(30)}
    assert refusal(write(tmp_path, **files)).code == "AS152"


def test_a_missing_parent_has_its_place_and_a_hint(tmp_path: Path) -> None:
    child = write(tmp_path, child_yaml="name: c\nextends: parnet.yaml", parent_yaml="name: p")
    found = refusal(child)
    assert place(found) == ("AS101", "child.yaml", 2, 10)
    assert found.hints == ("did you mean 'parent.yaml'?",)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.yaml").code == "AS101"
    assert refusal(tmp_path).code == "AS101"
    assert refusal("\0.yaml").code == "AS101"
    assert refusal(write(tmp_path, a_txt="name: a")).code == "AS104"
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("name: a\n# caf\xe9".encode("latin-1"))
    assert place(refusal(latin)) == ("AS102", "latin.yaml", 2, 6)
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (4 * MAX_SIZE + 1))
    assert refusal(large).code == "AS103"


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbfname: a")
    assert load(path).name == "a"


def test_line_ends_of_windows(tmp_path: Path) -> None:
    path = tmp_path / "crlf.yaml"
    path.write_bytes(b"name: a  # why\r\n\r\n# more\r\neval: {steps: 3}\r\n")
    assert load(path).eval
    assert format_yaml(parse_tree(read_source(path))) == "archspec: 1\nname: a  # why\n\n# more\neval:\n  steps: 3\n"
    path = tmp_path / "crlf.arch"
    path.write_bytes(b'spec "a" {\r\n  # why\r\n  eval { steps = 3 }  # so\r\n}\r\n')
    assert format_dsl(parse_tree(read_source(path))) == 'spec "a" {\n  # why\n  eval { steps = 3 }  # so\n}\n'
