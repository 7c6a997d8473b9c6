"""The decoder takes damaged files of every kind; the long form is `fuzz_decoder.py 100000`."""

import subprocess
import sys
from ast import literal_eval
from pathlib import Path


def test_damaged_files_are_read_or_refused_and_nothing_else_happens():
    script = Path(__file__).with_name("fuzz_decoder.py")
    done = subprocess.run([sys.executable, script, "4000"], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    result = literal_eval(done.stdout)
    assert result["read"] > 400
    assert result["refused"] > 400
    assert result["growth"] < 100e6
