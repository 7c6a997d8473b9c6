"""Reads and writes files in local folders or in object stores (URLs such as `s3://bucket/prefix`), with fsspec."""

import hashlib
import os
import posixpath
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from loupe.errors import LoupeError, UsageError, describe_error, is_masked, mask_secrets
from loupe.imaging.atomic import create_partial, publish, write_atomically

# With these options, an unreachable store causes an error within seconds. After temporary errors, s3fs still repeats
# requests.
OPTIONS: dict[str, Any] = {"s3": {"config_kwargs": {"connect_timeout": 5, "retries": {"max_attempts": 2}}}}
READ_AHEAD_BYTES = 4 << 20  # size of a request, so that one request reads several headers of a tar


def is_url(location: str) -> bool:
    return "://" in location


def join_path(location: str, name: str) -> str:
    """Return the location of a file in a folder or under a URL."""
    return f"{location.rstrip('/')}/{name}" if is_url(location) else str(Path(location) / name)


def make_absolute(location: str) -> str:
    """Return a location that does not depend on the working directory."""
    return location if is_url(location) else str(Path(location).resolve())


def get_local_folder(location: str) -> Path:
    """Return the folder of a location: the folder itself, or the cache folder of a URL."""
    if not is_url(location):
        return Path(location)
    public_url = remove_secrets(location)
    protocol, _, path = public_url.partition("://")
    folder = _get_cache_folder() / protocol
    if public_url != location:  # without secrets, URLs of different locations can be equal
        folder /= hashlib.sha256(location.encode()).hexdigest()[:8]
    return folder / posixpath.normpath(f"/{path}").lstrip("/")


def _get_cache_folder() -> Path:
    return Path(os.environ.get("LOUPE_CACHE") or "~/.cache/loupe").expanduser()


def remove_secrets(url: str) -> str:
    """Return a URL without user, password, query and fragment, for names of files and runs."""
    return re.sub(r"(?<=://)[^/?#]*@|[?#].*", "", mask_secrets(url))


def refuse_masked_url(url: str, field: str) -> None:
    """Raise UsageError if the secrets of a URL are masked."""
    if is_masked(url):
        raise UsageError(
            f"{field}: must have its password or token, which runs and datasets do not store, got {url!r}; give the "
            "full URL, or set data_dir to the folder that contains the dataset"
        )


def exists(location: str, name: str, field: str = "data_dir") -> bool:
    """Return whether a folder or URL contains a file; errors start with `field`."""
    if not is_url(location):
        return os.path.exists(Path(location) / name)
    with _open_filesystem(location, field) as (filesystem, path):
        filesystem.invalidate_cache()
        return bool(filesystem.exists(posixpath.join(path, name)))


def fetch_file(location: str, file: Path) -> bool:
    """Download the file with the name of `file` from the URL `location`, and write or replace `file`.

    Return False if the URL has no such file, or if `location` is a folder, otherwise True.

    fsspec's `filecache::` is not used, because it is not atomic, and keeps a damaged copy.

    Raises:
        UsageError: the URL is invalid, or the cache, which contains `file`, cannot be written.
        LoupeError: the URL cannot be read.
    """
    if not is_url(location):
        return False
    url = join_path(location, file.name)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(file) as partial, _open_filesystem(url, "data_dir") as (filesystem, path):
            filesystem.get_file(path, str(partial))
    except _MissingError:
        return False
    except OSError as error:
        got = f"got {str(_get_cache_folder())!r}: {error.strerror}"
        raise UsageError(f"LOUPE_CACHE: must be a folder where files can be written, {got}") from None
    return True


@contextmanager
def create_file(location: str, name: str) -> Iterator[Path]:
    """Yield a temporary path. After the block, rename the file to `name` in the folder, or upload it to the URL.

    The folder itself is not flushed: a flush per file would triple the time. The caller flushes it with `publish`.
    """
    if not is_url(location):
        with create_partial(Path(location), Path.touch) as partial:
            yield partial
            publish(partial, Path(location) / name, flush_name=False)
        return
    with tempfile.TemporaryDirectory(prefix="loupe-") as folder:
        file = Path(folder) / name
        yield file
        with _open_filesystem(join_path(location, name), "data_dir") as (filesystem, path):
            filesystem.put_file(str(file), path)


def list_files(url: str) -> dict[str, int]:
    """Return the sizes in bytes of all files under a URL by relative path ("" if the URL is a file).

    Raises:
        UsageError: the server does not report the size of a file.
        LoupeError: the URL cannot be accessed.
    """
    with _open_filesystem(url, "source") as (filesystem, path):
        top = path.rstrip("/")
        sizes = {
            name: info.get("size")
            for name, info in filesystem.find(path, detail=True).items()
            # An empty object whose name ends with a slash is a folder. Links such as `?C=N` sort a web page.
            if not name.endswith("/") and not (info.get("size") is None and "/?" in name.removeprefix(top))
        }
        unknown = [name for name, size in sizes.items() if size is None]
        sizes |= dict(zip(unknown, filesystem.sizes(unknown), strict=True))
    for name, size in sizes.items():
        if size is None:
            raise UsageError(f"source: must be on a server that reports the sizes of files, got {name!r}")
    return {name.removeprefix(top).lstrip("/"): int(size) for name, size in sizes.items()}


@contextmanager
def open_file(location: str) -> Iterator[IO[bytes]]:
    """Open a local file or a URL for reading at any position. For a URL, errors in the block become a LoupeError."""
    if not is_url(location):
        with open(location, "rb") as stream:
            yield stream
        return
    with (
        _open_filesystem(location, "source") as (filesystem, path),
        filesystem.open(path, "rb", block_size=READ_AHEAD_BYTES) as stream,
    ):
        yield stream


def read_range(url: str, offset: int, size: int) -> bytes:
    """Read `size` bytes of the file at a URL, from the position `offset`.

    Raises:
        LoupeError: the URL cannot be read, or returns another number of bytes.
    """
    with _open_filesystem(url, "source") as (filesystem, path):
        content = bytes(filesystem.cat_file(path, start=offset, end=offset + size)) if size else b""
    if len(content) != size:  # a server without ranges returns the whole file
        raise LoupeError(f"source: {url!r}: must return {size} bytes, got {len(content)}")
    return content


class _MissingError(LoupeError):
    """The file or its bucket does not exist."""


@contextmanager
def _open_filesystem(url: str, field: str) -> Iterator[tuple[Any, str]]:
    """Yield the fsspec file system of a URL and the path in it. Errors in the block become a LoupeError."""
    refuse_masked_url(url, field)
    try:
        import fsspec

        yield fsspec.url_to_fs(url, **OPTIONS.get(url.partition("://")[0], {}))
    except LoupeError:
        raise
    except FileNotFoundError as error:
        raise _MissingError(f"{field}: {url!r}: {describe_error(error, url)}") from None
    except ImportError as error:
        raise UsageError(f"{field}: {url!r} needs another package: {describe_error(error, url)}") from None
    except ValueError as error:
        raise UsageError(f"{field}: {url!r}: {describe_error(error, url)}") from None
    except Exception as error:
        reason = " ".join(mask_secrets(str(error), url).split()) or type(error).__name__
        raise LoupeError(f"{field}: {url!r}: {reason}") from None
