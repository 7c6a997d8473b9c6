"""Checks the HDF5 file of a `.keras` file, in a child process with limited memory and CPU time.

The HDF5 library can crash or run forever on a damaged file, and a small file can declare arrays that fill the memory.
"""

import zipfile
from pathlib import Path
from typing import Any

from loupe.imaging.child_process import ChildProcess, Connection
from loupe.imaging.limits import limit_process

WEIGHTS = "model.weights.h5"
CPU_LIMIT_S = 10
TIMEOUT_S = 30  # more than CPU_LIMIT_S, because the machine can be busy
MAX_MEMORY_BYTES = 2**30
MAX_OBJECTS = 20_000


def validate_weights(file: Path, count: int) -> None:
    """Raise ValueError unless a `.keras` file contains `count` weights (numbers), all in complete float32 arrays.

    Links, chunks and external files are also refused. The content of the group `optimizer` is ignored.
    """
    child = ChildProcess("loupe.models.weights_file:serve", {"file": str(file), "count": count})
    try:
        reason, _ = child.connections[0].receive(TIMEOUT_S)
    except TimeoutError:
        reason = f"{WEIGHTS} must be readable within {TIMEOUT_S} s"
    except EOFError:
        reason = f"{WEIGHTS} must be a readable HDF5 file"
    finally:
        child.stop()
    if reason:
        raise ValueError(reason)


def serve(connections: list[Connection], file: str, count: int) -> None:
    """Check a file in the child process, and send the result: "" for a valid file, or the reason for its refusal."""
    reason = ""
    try:
        with limit_process(MAX_MEMORY_BYTES, CPU_LIMIT_S):
            actual_count = _count_weights(file)
        if actual_count != count:
            reason = f"{WEIGHTS} must contain {count} weights, got {actual_count}"
    except Exception as error:
        reason = str(error) or type(error).__name__
    connections[0].send(reason)


def _count_weights(file: str) -> int:
    import h5py

    weight_count = object_count = 0
    with zipfile.ZipFile(file) as archive, archive.open(WEIGHTS) as stream, h5py.File(stream, "r") as weights:
        groups: list[Any] = [weights]
        while groups:
            group = groups.pop()
            for name in group:
                object_count += 1
                link = group.get(name, getlink=True)
                if object_count > MAX_OBJECTS:
                    raise ValueError(f"{WEIGHTS} must contain at most {MAX_OBJECTS} objects, got more")
                if not isinstance(link, h5py.HardLink):
                    raise ValueError(f"{WEIGHTS} must not contain links, got {name[:80]!r}")
                if group is weights and name == "optimizer":
                    continue
                part = group[name]
                if isinstance(part, h5py.Group):
                    groups.append(part)
                else:
                    weight_count += _count_values(part)
    return weight_count


def _count_values(part: Any) -> int:
    """Return the number of values of an HDF5 dataset; raise ValueError unless it is a complete float32 array."""
    if part.dtype != "float32" or part.chunks or part.external or part.is_virtual or part.shape is None:
        raise ValueError(
            f"{WEIGHTS} must contain only float32 arrays without chunks or external files, got {part.name[:80]!r}"
        )
    if part.id.get_storage_size() != part.size * part.dtype.itemsize:
        size = part.size * part.dtype.itemsize
        raise ValueError(f"{WEIGHTS} must contain {size} bytes for {part.name[:80]!r}, got fewer")
    return int(part.size)
