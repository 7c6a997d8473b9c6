"""Checks the HDF5 file with the weights in a `.keras` file, in a child process with limited memory and CPU time.

The HDF5 library can crash or run forever on a damaged file. A small file can declare arrays that fill the memory.
"""

import json
import resource
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import loupe

WEIGHTS = "model.weights.h5"
CHILD_CODE = (
    "import json, sys; sys.path = json.loads(sys.argv[1]); from loupe.models.weights_file import main; main()"
)
CPU_LIMIT_S = 10
TIMEOUT_S = 30  # limit for the elapsed time, in which the child process may also wait for a busy machine
MAX_MEMORY_BYTES = 2**30
MAX_OBJECTS = 20_000


def validate_weights(file: Path, count: int) -> None:
    """Check that a `.keras` file contains `count` weights, stored as complete float32 arrays without links.

    Raises:
        ValueError: the weights are not valid.
    """
    paths = [*sys.path, str(Path(loupe.__file__).parents[1])]
    command = [sys.executable, "-I", "-S", "-c", CHILD_CODE, json.dumps(paths), json.dumps([str(file), count])]
    try:
        child = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise ValueError(f"{WEIGHTS} must be readable within {TIMEOUT_S} s") from None
    if child.returncode or child.stdout:
        raise ValueError(child.stdout.decode(errors="replace").strip() or f"{WEIGHTS} must be a readable HDF5 file")


def main() -> None:
    """Check the file that the last argument names; if the file is invalid, print the reason."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for kind, value in ((resource.RLIMIT_CPU, CPU_LIMIT_S), (resource.RLIMIT_DATA, MAX_MEMORY_BYTES)):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
    file, count = json.loads(sys.argv[2])
    try:
        found = _count_weights(file)
        if found != count:
            raise ValueError(f"{WEIGHTS} must contain {count} weights, got {found}")
    except Exception as error:  # h5py raises exceptions of many classes
        print(str(error) or type(error).__name__)


def _count_weights(file: str) -> int:
    import h5py

    found = objects = 0
    with zipfile.ZipFile(file) as archive, archive.open(WEIGHTS) as stream, h5py.File(stream, "r") as weights:
        groups: list[Any] = [weights]
        while groups:
            group = groups.pop()
            for name in group:
                objects += 1
                link = group.get(name, getlink=True)
                if objects > MAX_OBJECTS:
                    raise ValueError(f"{WEIGHTS} must contain at most {MAX_OBJECTS} objects, got more")
                if not isinstance(link, h5py.HardLink):
                    raise ValueError(f"{WEIGHTS} must not contain links, got {name[:80]!r}")
                if group is weights and name == "optimizer":
                    continue  # Keras does not load the state of the optimizer
                part = group[name]
                if isinstance(part, h5py.Group):
                    groups.append(part)
                else:
                    found += _count_values(part)
    return found


def _count_values(part: Any) -> int:
    """Return the number of values of an HDF5 dataset; raise ValueError for storage that Keras does not use."""
    if part.dtype != "float32" or part.chunks or part.external or part.is_virtual or part.shape is None:
        raise ValueError(
            f"{WEIGHTS} must contain only float32 arrays without chunks and external files, got {part.name[:80]!r}"
        )
    if part.id.get_storage_size() != part.size * part.dtype.itemsize:
        size = part.size * part.dtype.itemsize
        raise ValueError(f"{WEIGHTS} must contain {size} bytes for {part.name[:80]!r}, got fewer")
    return int(part.size)
