"""Where photos and datasets are kept: a folder, or an address in an object store with a copy on this machine.

An address (`s3://bucket/prefix`) is opened by fsspec; this is the only file that knows it.
"""

import os
import posixpath
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from loupe.errors import LoupeError, UsageError
from loupe.imaging.atomic import write_atomically

# So that a store that does not answer is told within seconds; s3fs tries again what may succeed then.
OPTIONS: dict[str, Any] = {"s3": {"config_kwargs": {"connect_timeout": 5, "retries": {"max_attempts": 2}}}}
READ_AHEAD = 4 << 20  # bytes: the headers of a tar lie between its photos


def is_url(place: str) -> bool:
    """Whether a place is an address rather than a folder or file of this machine."""
    return "://" in place


def join_path(place: str, name: str) -> str:
    """The place of what is called `name` in a folder or below an address."""
    return f"{place.rstrip('/')}/{name}" if is_url(place) else str(Path(place) / name)


def make_absolute(place: str) -> str:
    """A place that means the same to processes in other folders."""
    return place if is_url(place) else str(Path(place).resolve())


def get_local_folder(place: str) -> Path:
    """The folder on this machine that has the files of a place: itself, or an address's copy in the cache."""
    if not is_url(place):
        return Path(place)
    protocol, _, rest = place.partition("://")
    cache = Path(os.environ.get("LOUPE_CACHE") or "~/.cache/loupe").expanduser()
    return cache / protocol / posixpath.normpath(f"/{rest}").lstrip("/")


def exists(place: str, name: str, field: str = "data_dir") -> bool:
    """Whether a folder or an address holds a file of this name; `field` is who names the place."""
    if not is_url(place):
        return (Path(place) / name).exists()
    with _open_filesystem(place, field) as (store, path):
        store.invalidate_cache()
        return bool(store.exists(posixpath.join(path, name)))


def fetch_file(place: str, file: Path) -> bool:
    """Copy a file of this name from an address over `file`; False where the place has none to give."""
    if not is_url(place):
        return False
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (
            write_atomically(file) as partial,
            _open_filesystem(join_path(place, file.name), "data_dir") as (store, path),
        ):
            store.get_file(path, str(partial))
    except _MissingError:
        return False
    return True


@contextmanager
def create_file(place: str, name: str) -> Iterator[Path]:
    """A file to write, which stands in the folder, or is put at the address once the block has ended well."""
    if not is_url(place):
        yield Path(place) / name
        return
    with tempfile.TemporaryDirectory(prefix="loupe-") as folder:
        file = Path(folder) / name
        yield file
        with _open_filesystem(join_path(place, name), "data_dir") as (store, path):
            store.put_file(str(file), path)


def list_files(address: str) -> dict[str, int]:
    """The size of each file below an address, by its path from there; of an address that is a file, of "" alone."""
    with _open_filesystem(address, "source") as (store, path):
        found = store.find(path, detail=True)
    top = path.rstrip("/")
    return {name.removeprefix(top).lstrip("/"): int(about["size"] or 0) for name, about in found.items()}


def open_file(file: str) -> IO[bytes]:
    """A file to read from any position: of this machine, or at an address."""
    if not is_url(file):
        return open(file, "rb")
    with _open_filesystem(file, "source") as (store, path):
        stream: IO[bytes] = store.open(path, "rb", block_size=READ_AHEAD)
        return stream


def read_range(address: str, offset: int, size: int) -> bytes:
    """So many bytes of the file at an address, by one request."""
    with _open_filesystem(address, "source") as (store, path):
        return bytes(store.cat_file(path, start=offset, end=offset + size)) if size else b""


class _MissingError(LoupeError):
    """There is no such file, or no such bucket."""


@contextmanager
def _open_filesystem(address: str, field: str) -> Iterator[tuple[Any, str]]:
    """The store of an address and the path there; whatever goes wrong in the block is told in one line."""
    try:
        import fsspec

        yield fsspec.url_to_fs(address, **OPTIONS.get(address.partition("://")[0], {}))
    except FileNotFoundError as error:
        raise _MissingError(f"{field}: {address!r}: {error}") from None
    except ImportError as error:
        raise UsageError(f"{field}: {address!r} needs another package: {error}") from error
    except ValueError as error:
        raise UsageError(f"{field}: {address!r}: {error}") from None
    except Exception as error:  # each kind of store has exceptions of its own
        why = " ".join(str(error).split()) or type(error).__name__
        raise LoupeError(f"{field}: {address!r}: {why}") from None
