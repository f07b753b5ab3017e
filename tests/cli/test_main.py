"""The frame of the command line: lazy verbs, exit codes, failures told."""

import errno
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from click.testing import CliRunner, Result

from archspec import cli
from archspec.cli import conflict
from archspec.diagnostics import ArchspecError, InternalError, fail
from archspec.source import Source

Boom = Callable[..., Result]


@pytest.fixture
def boom(monkeypatch: pytest.MonkeyPatch) -> Boom:
    """Run a verb that raises the given exception, or returns the given value."""
    monkeypatch.setenv("ARCHSPEC_DEBUG", "")  # set first, so that what `--debug` sets is undone as well
    monkeypatch.setattr(cli, "VERBS", {**cli.VERBS, "boom": "explode"})

    def run(outcome: object, *options: str) -> Result:
        @click.command()
        def command() -> object:
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        monkeypatch.setitem(sys.modules, "archspec.cli.boom", SimpleNamespace(command=command))
        return CliRunner().invoke(cli.main, [*options, "boom"])

    return run


@pytest.mark.parametrize(("value", "code"), [(None, 0), (0, 0), (1, 1)])
def test_a_verb_returns_its_exit_code(boom: Boom, value: object, code: int) -> None:
    assert boom(value).exit_code == code


def test_a_user_error_is_rendered_and_exits_1(boom: Boom) -> None:
    result = boom(fail("AS203", "no operator 'x'", Source("a.yaml", "op: x\n").span(4, 5), "write y"))
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.splitlines() == [
        "error[AS203]: no operator 'x'",
        " --> a.yaml:1:5",
        "  |",
        "1 | op: x",
        "  |     ^",
        "  = help: write y",
    ]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (InternalError("pass 'fuse' left the graph broken"), "internal error: pass 'fuse' left the graph broken"),
        (ValueError("odd\nsecond line"), "internal error: ValueError: odd"),
    ],
)
def test_a_bug_is_one_short_message_and_exits_3(boom: Boom, error: Exception, told: str) -> None:
    result = boom(error)
    assert result.exit_code == 3
    assert result.stderr.splitlines()[0] == told
    assert "--debug" in result.stderr
    assert "Traceback" not in result.stderr


def test_debug_prints_the_traceback(boom: Boom, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Traceback" in boom(ValueError("odd"), "--debug").stderr
    monkeypatch.setenv("ARCHSPEC_DEBUG", "1")
    assert "Traceback" in boom(ValueError("odd")).stderr
    monkeypatch.setenv("ARCHSPEC_DEBUG", "0")
    assert "Traceback" not in boom(ValueError("odd")).stderr


def test_ctrl_c_exits_130(boom: Boom) -> None:
    result = boom(KeyboardInterrupt())
    assert result.exit_code == 130
    assert "stopped; nothing half-written" in result.stderr


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (MemoryError(), "AS801", "out of memory"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate"),
            "AS801",
            "can't allocate",
        ),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA: tried to allocate"), "AS801", "tried to allocate"),
        (OSError(errno.ENOSPC, "No space left on device", "out/model.safetensors"), "AS802", "'out/model.safetensors'"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "AS802", "no space left"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.yaml"), "AS803", "'a.yaml': No such file"),
        (PermissionError(errno.EACCES, "Permission denied", "out"), "AS803", "'out': Permission denied"),
    ],
)
def test_what_the_machine_refuses_is_a_diagnostic(boom: Boom, error: Exception, code: str, said: str) -> None:
    result = boom(error)
    assert result.exit_code == 1
    assert f"error[{code}]" in result.stderr
    assert said in result.stderr


def test_unknown_verb_is_a_usage_error_with_the_nearest() -> None:
    result = CliRunner().invoke(cli.main, ["validat", "x.yaml"])
    assert result.exit_code == 2
    assert "no verb 'validat'; did you mean 'validate'?" in result.stderr


def test_unknown_option_is_a_usage_error() -> None:
    assert CliRunner().invoke(cli.main, ["explain", "--lst"]).exit_code == 2


def test_help_lists_every_verb_without_importing_one() -> None:
    code = "import sys; from archspec.cli import main, VERBS\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print(sorted(m for m in sys.modules if m.removeprefix('archspec.cli.') in VERBS))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"
    assert all(f"\n  {verb} " in out for verb in cli.VERBS)


def test_version() -> None:
    result = CliRunner().invoke(cli.main, ["--version"])
    assert (result.exit_code, result.stdout.split()[0]) == (0, "archspec")


def test_python_dash_m_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "archspec", "explain", "AS804"], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("AS804: ")


def test_a_closed_pipe_is_quiet() -> None:
    command = f"{sys.executable} -m archspec explain $(for i in $(seq 2000); do echo AS804; done) | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout.startswith("AS804: ")
    assert done.stderr == ""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_real_signal_while_reading_stops(number: int, code: int) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "archspec", "validate", "-"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdin is not None
    assert child.stderr is not None
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(2)
    child.send_signal(number)
    assert child.wait(10) == code
    assert "stopped; nothing half-written" in child.stderr.read()
    child.stdin.close()
    child.stderr.close()


def test_a_folder_that_is_being_written_goes_when_the_process_is_ended(tmp_path: Path) -> None:
    code = (
        "import click, os, signal, sys, time\n"
        "from pathlib import Path\n"
        "from archspec import cli\n"
        "from archspec.runtime.store.files import publish\n"
        "@click.command()\n"
        "def command():\n"
        "    with publish(Path(sys.argv[1])) as folder:\n"
        "        (folder / 'half').write_text('')\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        time.sleep(60)\n"
        "cli.Verbs.get_command = lambda *_: command\n"
        "cli.main(['merge'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], capture_output=True, text=True)
    assert done.returncode == 143, done.stderr
    assert "stopped; nothing half-written" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_unrelated_distribution_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "archspec-0.2.7.dist-info").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ArchspecError) as caught:
        conflict.refuse()
    assert caught.value.diagnostics[0].code == "AS804"
    result = CliRunner().invoke(cli.main, ["explain", "--list"])
    assert result.exit_code == 1
    assert "AS804" in result.stderr
    assert "own: python -m venv" in result.stderr


def test_our_own_distribution_is_not_foreign(tmp_path: Path) -> None:
    for name in ("archspec_compiler-0.1.0.dist-info", "archspec", "archspec-notes.txt"):
        (tmp_path / name).mkdir()
    assert conflict.foreign([str(tmp_path), str(tmp_path / "missing")]) is None


@pytest.mark.parametrize(("device", "told"), [("cuda:77", "there is no device"), ("abacus", "is no device")])
def test_a_device_that_is_not_here_is_usage(device: str, told: str) -> None:
    from archspec.cli.eval import command

    found = CliRunner().invoke(command, ["specs/hosts/digits", "--device", device])
    assert found.exit_code == 2
    assert told in found.output
