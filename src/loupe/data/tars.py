"""Lists the members of an uncompressed tar from its headers; nothing is extracted."""

import io
import tarfile
from typing import Any, NamedTuple

from loupe.data import storage
from loupe.errors import UsageError

MAX_HEADER_BYTES = 2**20  # maximum size of an extended header, which contains a long name


class _HeaderReader(io.BufferedReader):
    """Reads the headers of a tar."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read `size` bytes; raise ReadError unless `size` is from 0 to MAX_HEADER_BYTES (a damaged tar)."""
        if size is None or not 0 <= size <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return super().read(size)


class Member(NamedTuple):
    """The fields of a header that Loupe needs. A tuple takes less memory than tarfile's object."""

    name: str
    offset: int  # of the content in the tar, in bytes
    size: int
    is_file: bool
    is_link: bool
    is_sparse: bool


def list_members(location: str) -> list[Member]:
    """List the members of a tar at a path or URL, except folders.

    Raises:
        UsageError: the file is not a tar, or is compressed or damaged; or a name points outside of the tar, as in
            `../photo.jpg`.
        OSError, LoupeError: the path or the URL cannot be opened.
    """
    with storage.open_file(location) as raw:
        members, outside = _read_headers(raw, location)
    if outside:
        raise UsageError(f"source: names in a tar must not point outside of the tar, got {outside!r} in {location!r}")
    return members


def _read_headers(raw: Any, location: str) -> tuple[list[Member], str]:
    """Return the members of an open tar, and the first name that points outside of the tar, or ""."""
    members, outside = [], ""
    try:
        end = raw.seek(0, io.SEEK_END)
        raw.seek(0)
        with _HeaderReader(raw) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in tar:
                if member.size < 0:  # tarfile would read the same headers forever
                    raise tarfile.ReadError(f"a size of {member.size} bytes")
                if tar.offset > end:  # seeking far beyond the end would raise OSError
                    raise tarfile.ReadError("unexpected end of data")
                if not member.isdir():
                    link = member.issym() or member.islnk()
                    position = member.offset_data, member.size
                    members.append(Member(member.name, *position, member.isreg(), link, member.issparse()))
                if member.name.startswith("/") or ".." in member.name.split("/"):
                    outside = outside or member.name
                tar.members.clear()  # type: ignore[attr-defined] # saves a kilobyte per member
            # tarfile stops silently at a damaged header. After an intact tar, the next block contains only zeros, or
            # the file ends.
            stream.seek(tar.offset)
            if any(stream.read(tarfile.BLOCKSIZE)):
                raise tarfile.ReadError(f"damaged header at byte {tar.offset}")
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        raise UsageError(f"source: must be a complete, uncompressed tar, got {location!r} ({error})") from None
    return members, outside
