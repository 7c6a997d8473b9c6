"""Checks the HDF5 file with the weights in a `.keras` file, in a child process with limits of memory and CPU time.

The HDF5 library can crash or run forever on a damaged file. A dataset without values can declare any size.
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
START = "import json, sys; sys.path = json.loads(sys.argv[1]); from loupe.models.weights_file import main; main()"
LIMIT_S, TIMEOUT_S = 10, 30  # of CPU time and of elapsed time
MAX_MEMORY_BYTES = 2**30
MAX_OBJECTS = 20_000


def validate_weights(file: Path, count: int) -> None:
    """Check the number of weights in a `.keras` file, and that they are float32 without links and filters.

    Raises:
        ValueError: the weights are not valid.
    """
    paths = [*sys.path, str(Path(loupe.__file__).parents[1])]
    command = [sys.executable, "-I", "-S", "-c", START, json.dumps(paths), json.dumps([str(file), count])]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise ValueError(f"{WEIGHTS} takes too long to read") from None
    if done.returncode or done.stdout:
        reason = done.stdout.decode(errors="replace").strip() or f"{WEIGHTS} cannot be read"
        raise ValueError(reason)


def main() -> None:
    """Check the file that the last argument names; print the reason for an invalid file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for kind, value in ((resource.RLIMIT_CPU, LIMIT_S), (resource.RLIMIT_DATA, MAX_MEMORY_BYTES)):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
    file, count = json.loads(sys.argv[2])
    try:
        found = _count_weights(file)
        if found != count:
            raise ValueError(f"{WEIGHTS} must contain {count} weights, got {found}")
    except Exception as error:  # h5py raises many classes
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
                if objects > MAX_OBJECTS or not isinstance(link, h5py.HardLink):
                    raise ValueError(f"{WEIGHTS} must contain only weights, got a link or too many objects")
                if group is weights and name == "optimizer":
                    continue  # the state of a compiled network; it is not loaded
                part = group[name]
                if isinstance(part, h5py.Group):
                    groups.append(part)
                else:
                    found += _count_values(part)
    return found


def _count_values(part: Any) -> int:
    """Return the number of values of an HDF5 dataset; raise ValueError for storage that Keras does not use."""
    if part.dtype != "float32" or part.chunks or part.external or part.is_virtual or part.shape is None:
        raise ValueError(f"{WEIGHTS} must contain only arrays of float32, got {part.dtype} {part.shape}")
    if part.id.get_storage_size() != part.size * part.dtype.itemsize:
        raise ValueError(f"{WEIGHTS} must contain all values of {part.name!r}")
    return int(part.size)
