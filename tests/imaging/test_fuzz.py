"""The decoder on damaged files; `fuzz_decoder.py 100000` runs longer."""

import subprocess
import sys
from ast import literal_eval
from pathlib import Path


def test_damaged_files_are_decoded_or_raise_photo_error():
    script = Path(__file__).with_name("fuzz_decoder.py")
    done = subprocess.run([sys.executable, script, "4000"], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    result = literal_eval(done.stdout)
    assert result["read"] > 400
    assert result["refused"] > 400
    assert result["growth"] < 100e6
