"""An uncompressed tar to what it holds, by its headers alone: nothing is unpacked, and no name of it is followed."""

import io
import tarfile
from typing import Any, NamedTuple

from loupe.data import storage
from loupe.errors import UsageError

LARGEST_HEADER = 2**20  # bytes of an extended header, which holds a name


class _Headers(io.BufferedReader):
    """A tar of which only headers are read: what claims to be one and is larger is damaged, or made to be."""

    def read(self, size: int | None = -1, /) -> bytes:
        """As of a file; raises ReadError where `size` is that of no header."""
        if size is None or not 0 <= size <= LARGEST_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return super().read(size)


class Member(NamedTuple):
    """What a header says: a fraction of what tarfile keeps of it."""

    name: str
    offset: int  # of the content, in the tar
    size: int
    is_file: bool
    is_link: bool
    is_sparse: bool


def list_members(file: str) -> list[Member]:
    """What is in a tar, a file or at an address, but folders.

    Raises:
        UsageError: it is no whole, uncompressed tar, or a name in it leads outside.
    """
    found, outside = [], ""
    try:
        raw: Any = storage.open_file(file)
        with _Headers(raw) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in tar:
                if member.size < 0:  # after which tarfile would go backwards, for ever
                    raise tarfile.ReadError(f"a size of {member.size} bytes")
                if not member.isdir():
                    link = member.issym() or member.islnk()
                    place = member.offset_data, member.size
                    found.append(Member(member.name, *place, member.isreg(), link, member.issparse()))
                if member.name.startswith("/") or ".." in member.name.split("/"):
                    outside = outside or member.name
                tar.members.clear()  # type: ignore[attr-defined] # which would hold a kilobyte for each
            stream.seek(tar.offset)  # tarfile takes a damaged header for the end
            if any(stream.read(tarfile.BLOCKSIZE)):
                raise tarfile.ReadError(f"damaged header at byte {tar.offset}")
    except (tarfile.TarError, ValueError, OverflowError) as error:  # the latter two: of numbers in headers
        raise UsageError(f"source: {file!r} is no whole, uncompressed tar ({error})") from None
    if outside:
        raise UsageError(f"source: the tar {file!r} holds {outside!r}, which leads outside of it")
    return found
