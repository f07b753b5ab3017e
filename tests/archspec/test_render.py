import json

import pytest

from archspec.codes import table
from archspec.diagnostics import Diagnostic, Label, Severity
from archspec.render import FORMATS, render
from archspec.render.text import CAP, visible, width
from archspec.source import Source, Span


def at(source: Source, text: str, label: str = "") -> Label:
    start = source.text.index(text)
    return Label(source.span(start, start + len(text)), label)


SPEC = Source("demo.yaml", "name: demo\nedits:\n  - replace: blocks\n    with: {op: hyena, order: 0}\n")


def test_text_places_carets_and_hints() -> None:
    found = Diagnostic(
        "AS203", "no operator 'hyena'", at(SPEC, "hyena", "chosen here"), hints=("did you mean 'hyena_x'?",)
    )
    assert render([found]) == (
        "error[AS203]: no operator 'hyena'\n"
        " --> demo.yaml:4:16\n"
        "  |\n"
        "4 |     with: {op: hyena, order: 0}\n"
        "  |                ^^^^^ chosen here\n"
        "  = help: did you mean 'hyena_x'?"
    )


def test_text_related_labels_share_a_frame_in_line_order() -> None:
    found = Diagnostic("AS203", "m", at(SPEC, "order: 0"), (at(SPEC, "demo", "named here"), at(SPEC, "with", "opened")))
    assert render([found]).splitlines() == [
        "error[AS203]: m",
        " --> demo.yaml:4:23",
        "  |",
        "1 | name: demo",
        "  |       ---- named here",
        "...",
        "4 |     with: {op: hyena, order: 0}",
        "  |                       ^^^^^^^^",
        "  |     ---- opened",
    ]


def test_text_related_label_of_another_file_has_a_frame_of_its_own() -> None:
    parent = Source("parent.yaml", "name: parent\n")
    found = Diagnostic("AS203", "m", at(SPEC, "demo"), (at(parent, "parent", "inherited"),))
    assert render([found]).splitlines()[-4:] == [
        " ::: parent.yaml:1:7",
        "  |",
        "1 | name: parent",
        "  |       ------ inherited",
    ]


def test_text_multi_line_span_underlines_its_lines_and_skips_the_middle() -> None:
    source = Source("long.yaml", "a:\n  b: 1\n\n  c: 2\n  d: 3\n  e: 4\nf: 5\n")
    found = Diagnostic("AS203", "m", Label(source.span(5, source.text.index("f")), "here"))
    assert render([found]).splitlines()[3:] == [
        "2 |   b: 1",
        "  |   ^^^^",
        "...",
        "6 |   e: 4",
        "  |   ^^^^ here",
    ]


def test_text_tabs_and_wide_characters_keep_the_carets_under_their_text() -> None:
    source = Source("wide.yaml", "\tname: 模型e\u0301 x\n")
    lines = render([Diagnostic("AS203", "m", at(source, "x"))]).splitlines()
    source_line, carets = lines[3][4:], lines[4][4:]
    assert source_line == "    name: 模型e\u0301 x"
    assert width(carets[: carets.index("^")]) == width(source_line[: source_line.index("x")])
    wide = render([Diagnostic("AS203", "m", at(source, "模型"))]).splitlines()[4]
    assert wide == "  |           ^^^^"


def test_text_empty_span_at_the_end_of_the_file_gets_one_caret() -> None:
    source = Source("end.yaml", "a: 1")
    assert render([Diagnostic("AS203", "m", Label(source.span(4, 4)))]).splitlines()[-1] == "  |     ^"


def test_text_never_sends_control_characters_of_a_hostile_file() -> None:
    source = Source("evil\x1b.yaml", "name: \x1b[2Jx\u202ey\n")
    out = render([Diagnostic("AS203", "bad \x1b]0;title\x07", at(source, "name"))])
    assert not [char for char in out if char != "\n" and (ord(char) < 32 or char == "\u202e")]
    assert visible("\x1b[2J") == "␛[2J"


def test_text_long_line_is_cut_around_the_span() -> None:
    source = Source("long.yaml", "x" * 1000 + " here " + "y" * 1000)
    lines = render([Diagnostic("AS203", "m", at(source, "here"))]).splitlines()
    text, carets = lines[3], lines[4]
    assert len(text) < 180
    assert text[carets.index("^") : carets.rindex("^") + 1] == "here"
    assert text.startswith("1 | ...")
    assert text.endswith("...")


def test_text_without_a_place_is_one_line() -> None:
    assert render([Diagnostic("AS801", "out of memory", severity=Severity.WARNING)]) == "warning[AS801]: out of memory"


def test_text_flood_is_capped() -> None:
    out = render([Diagnostic("AS203", f"m{n}") for n in range(CAP + 12)])
    assert out.count("error[") == CAP
    assert out.splitlines()[-1] == "... and 12 more (--format json lists all)"


def test_color_only_when_asked() -> None:
    found = [Diagnostic("AS203", "m", at(SPEC, "demo"), hints=("h",))]
    assert "\x1b" not in render(found)
    colored = render(found, color=True)
    assert "\x1b[31m\x1b[1merror[AS203]" in colored
    import click

    assert click.unstyle(colored) == render(found)


def test_json_holds_ranges_counts_and_snippets() -> None:
    found = Diagnostic("AS203", "m", at(SPEC, "hyena", "l"), (at(SPEC, "demo", "r"),), ("h",))
    data = json.loads(render([found, Diagnostic("AS801", "w", severity=Severity.NOTE)], "json"))
    assert (data["format_version"], data["valid"]) == (1, False)
    assert (data["error_count"], data["warning_count"], data["note_count"]) == (1, 0, 1)
    first, second = data["diagnostics"]
    assert first["range"] == {
        "start": {"line": 4, "column": 16, "offset": 53},
        "end": {"line": 4, "column": 21, "offset": 58},
    }
    assert first["file"] == "demo.yaml"
    assert first["snippet"] == "    with: {op: hyena, order: 0}"
    assert first["related"][0]["range"]["start"]["line"] == 1
    assert first["hints"] == ["h"]
    assert (second["range"], second["severity"]) == (None, "note")


def test_json_without_errors_is_valid() -> None:
    assert json.loads(render([Diagnostic("AS301", "w", severity=Severity.WARNING)], "json"))["valid"] is True


def test_github_escapes_data_and_properties() -> None:
    source = Source("a,b:c%.yaml", "name: x\n")
    out = render([Diagnostic("AS203", "50% of\nx: y", at(source, "x"), hints=("h",))], "github")
    place = "file=a%2Cb%3Ac%25.yaml,line=1,endLine=1,col=7,endColumn=7,title=AS203"
    assert out == f"::error {place}::50%25 of%0Ax: y%0Ahelp: h"


def test_github_leaves_columns_out_of_multi_line_spans() -> None:
    out = render([Diagnostic("AS203", "m", Label(SPEC.span(0, 20)), severity=Severity.NOTE)], "github")
    assert out == "::notice file=demo.yaml,line=1,endLine=3,title=AS203::m"


def test_sarif_declares_every_rule_and_points_at_them() -> None:
    code = next(iter(table()))
    found = Diagnostic(code, "m", at(SPEC, "hyena"), (at(SPEC, "demo", "r"),), ("h",))
    data = json.loads(render([found, Diagnostic(code, "n", severity=Severity.NOTE)], "sarif"))
    run = data["runs"][0]
    assert data["version"] == "2.1.0"
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == list(table())
    first, second = run["results"]
    assert run["tool"]["driver"]["rules"][first["ruleIndex"]]["id"] == first["ruleId"] == code
    place = first["locations"][0]["physicalLocation"]
    assert place["artifactLocation"] == {"uri": "demo.yaml"}
    assert place["region"] == {
        "startLine": 4,
        "startColumn": 16,
        "endLine": 4,
        "endColumn": 21,
        "snippet": {"text": "hyena"},
    }
    assert first["relatedLocations"][0]["message"] == {"text": "r"}
    assert (second["level"], "locations" in second) == ("note", False)


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_renders_nothing_at_all(form: str) -> None:
    out = render([], form)
    assert out == "" if form in ("text", "github") else json.loads(out)


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_takes_spans_at_odd_places(form: str) -> None:
    source = Source("odd.yaml", "")
    odd = [Span(source, 0, 0), Span(SPEC, len(SPEC.text), len(SPEC.text)), Span(SPEC, 10, 11)]
    code = next(iter(table()))
    assert render([Diagnostic(code, "m", Label(span)) for span in odd], form)
