import pytest
from click.testing import CliRunner

from archspec.cli import main
from archspec.codes import table


@pytest.mark.parametrize("written", ["AS804", "as804", "804"])
def test_explains_a_code_with_examples(written: str) -> None:
    result = CliRunner().invoke(main, ["explain", written])
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == f"AS804: {table()['AS804'].title}"
    assert "wrong:" in lines
    assert "right:" in lines
    assert "    pip install archspec archspec-compiler" in lines


def test_explains_several() -> None:
    out = CliRunner().invoke(main, ["explain", "AS801", "AS802"]).stdout
    assert out.index("AS801: ") < out.index("AS802: ")


def test_unknown_code_is_told() -> None:
    result = CliRunner().invoke(main, ["explain", "AS999"])
    assert result.exit_code == 1
    assert "error[AS805]: no error code 'AS999'" in result.stderr


def test_lists_all_codes() -> None:
    out = CliRunner().invoke(main, ["explain", "--list"]).stdout
    assert [line.split()[0] for line in out.splitlines()] == list(table())


def test_nothing_asked_is_a_usage_error() -> None:
    assert CliRunner().invoke(main, ["explain"]).exit_code == 2
