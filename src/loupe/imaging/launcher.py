"""Starts the child process of `isolated_reader` before that module is imported: both load in parallel."""

import json
import os
import subprocess
import sys
from pathlib import Path

import loupe

# Options -I and -S: neither the working directory nor the environment adds modules. Python starts 20 ms faster.
START = "import json, sys; sys.path = json.loads(sys.argv[1]); from loupe.imaging.reader_process import main; main()"
# Freed memory returns to the system, so that it does not count against the limit of the next photo. OpenBLAS uses one
# thread, because the process computes no linear algebra; numpy then loads faster.
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "262144", "MALLOC_ARENA_MAX": "2", "OPENBLAS_NUM_THREADS": "1"}


def start_reader_process() -> "subprocess.Popen[bytes]":
    """Start the child process; it ends when its standard input is closed."""
    paths = [*sys.path, str(Path(loupe.__file__).parents[1])]
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", START, json.dumps(paths)],
        env=os.environ | ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
