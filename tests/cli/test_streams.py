"""Closed and full output streams: the step continues. Messages of native code: filtered."""

import io
import signal
import subprocess
import sys

import pytest
from jobs import ROOT, build_env, list_runs

from loupe.cli import progress

STEP = """
import sys
from pathlib import Path
from loupe.cli import main, progress
from loupe.steps import preprocess

def run(settings):
    with progress.ProgressBar("working", 5000, quiet=False) as bar:
        for number in range(5000):
            progress.print_line(f"line {number}" * 10, quiet=False)
            bar.update(number)
    print("of a library")
    Path("done").touch()

preprocess.run = run
sys.argv = ["loupe", "preprocess"]
main.entry()
"""


def run_in_shell(redirection, folder, code=STEP):
    command = ["bash", "-o", "pipefail", "-c", f'"$0" -c "$1" {redirection}', sys.executable, code]
    return subprocess.run(command, cwd=folder, env=build_env(), capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("redirection", "expected"),
    [
        ("2>/dev/null | head -1", ""),
        ("2>&1 | head -1", ""),
        ("2>/dev/full | head -1", ""),
        (">/dev/full", "loupe: standard output cannot be written: No space left on device"),
        (">/dev/full 2>&1", ""),
        (">&-", ""),
        (">/dev/null 2>&-", ""),
        (">&- 2>&- <&-", ""),
    ],
)
def test_a_closed_or_full_stream_is_no_failure_of_the_step(redirection, expected, tmp_path):
    done = run_in_shell(redirection, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "done").exists()
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert expected in done.stderr
    assert "cannot be written" in done.stderr or not expected


def test_errors_and_progress_bars_are_not_in_the_standard_output_if_the_standard_error_is_closed(tmp_path):
    done = run_in_shell(
        "2>&-", tmp_path, STEP.replace("run(settings):", "run(settings):\n    progress.print_error('wrong')")
    )
    assert (tmp_path / "done").exists()
    assert done.stdout.splitlines() == [*(f"line {number}" * 10 for number in range(5000)), "of a library"]
    command = "import sys; from loupe.cli.main import entry; sys.argv[1:] = ['bogus']; entry()"
    done = run_in_shell("2>&-", tmp_path, command)
    assert (done.returncode, done.stdout) == (2, "")


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self):
        return True


@pytest.mark.parametrize("output", [io.StringIO, Terminal])
def test_lines_during_a_progress_bar_are_in_the_standard_output_unless_it_is_a_terminal(output, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", output())
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress.ProgressBar("working", 2, quiet=False):
        progress.print_line("a line", quiet=False)
    assert sys.stdout.getvalue() == ("" if output is Terminal else "a line\n")
    assert ("a line" in sys.stderr.getvalue()) is (output is Terminal)


def test_help_that_nobody_reads_to_its_end_prints_no_error(tmp_path):
    done = run_in_shell(
        "| head -1", tmp_path, "import sys; from loupe.cli.main import entry; sys.argv[1:] = ['--help']; entry()"
    )
    assert (done.returncode, done.stderr) == (0, "")


NATIVE = """
import os, sys
from loupe.cli.native_logs import filter_native_logs
from loupe.cli.streams import open_streams
open_streams()
filter_native_logs()
try:
    import tensorflow  # a module in the current folder
finally:
    print("of Python", file=sys.stderr, flush=True)
    if sys.argv[1:] == ["crash"]:
        os.write(2, b"terminate called after throwing\\n")
        os.abort()
    if not os.fork():
        os.write(2, b"I0000 00:00:1.5 9 port.cc:1] of a fork\\nof a fork\\n")
"""
NOISE = """WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795843437.983751   30949 port.cc:153] oneDNN custom operations are on.
W0000 00:00:1795843437.983751   30949 computation_placer.cc:177] computation placer already registered.
E0000 00:00:1795843437.983751   30949 cuda_fft.cc:467] Unable to register cuFFT factory: Attempting to register
"""
ERROR = "E0000 00:00:1795843437.983751   30949 cuda_blas.cc:3] no more memory\n"


def write_library(folder, end=""):
    (folder / "tensorflow.py").write_text(f"import os\nos.write(2, {(NOISE + ERROR).encode()!r})\n{end}")


def test_messages_of_the_start_of_tensorflow_are_hidden_and_errors_are_shown(tmp_path):
    write_library(tmp_path)
    done = run_in_shell("", tmp_path, NATIVE)
    assert sorted(done.stderr.splitlines(keepends=True)) == sorted([ERROR, "of Python\n", "of a fork\n"])


def test_an_import_that_fails_and_a_crash_are_shown(tmp_path):
    write_library(tmp_path, "raise ImportError('a library is missing')")
    done = run_in_shell("", tmp_path, NATIVE)
    assert "ImportError: a library is missing" in done.stderr
    assert ERROR in done.stderr
    write_library(tmp_path)
    done = run_in_shell("crash", tmp_path, NATIVE)
    assert done.returncode == -signal.SIGABRT
    assert ERROR + "terminate called after throwing\n" in done.stderr
    assert "InitializeLog" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "redirection"),
    [
        ("preprocess", ">/dev/full 2>&1"),
        ("train", "2>&1 | head -1"),
        ("evaluate", ">/dev/full"),
        ("sweep", "2>&1 | head -1"),
    ],
)
def test_the_run_of_a_step_without_a_reader_is_finished(step, redirection, tmp_path):
    arguments = {"sweep": ["sweep", str(ROOT / "sweeps" / "activation.toml")]}.get(step, [step])
    code = f"import sys; from loupe.cli.main import entry; sys.argv[1:] = {[*arguments, '--smoke']}; entry()"
    done = run_in_shell(redirection, tmp_path, code)
    assert done.returncode == 0, done.stderr
    assert {run.info.status for run in list_runs(tmp_path)} == {"FINISHED"}


def test_names_are_utf8_in_every_locale(tmp_path):
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "loupe", "upscale", "fehlt-ü😀.png".encode()]
    done = subprocess.run(command, cwd=tmp_path, env=build_env(**ascii_only), capture_output=True)
    assert done.returncode == 2
    assert rb"fehlt-\xfc\U0001f600.png" in done.stderr or "fehlt-ü😀.png".encode() in done.stderr
