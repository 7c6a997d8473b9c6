"""Hostile tar archives: links are not followed, paths stay inside, and sizes are checked."""

import io
import os
import tarfile
import tracemalloc

import pyarrow.parquet
import pytest
from jobs import loupe

from loupe.config import parse_settings
from loupe.data import sources
from loupe.data.sources import list_photos

BLOCK = tarfile.BLOCKSIZE


def member(name, kind=tarfile.REGTYPE, size=0, link=""):
    found = tarfile.TarInfo(name)
    found.type, found.size, found.linkname = kind, size, link
    return found


def write(file, *members, photo=b""):
    """Write a tar of these members; the regular files contain the photo."""
    with tarfile.open(file, "w", format=tarfile.GNU_FORMAT) as tar:
        for info in members:
            if info.isreg():
                info.size = len(photo)
            tar.addfile(info, io.BytesIO(photo) if info.isreg() else None)
    return file


def list_by_path(source):
    return {photo.path: photo for photo in list_photos(parse_settings("preprocess", {"source": str(source)}))}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("/etc/cron.d/photo.png", tarfile.REGTYPE),
        ("photos/../../outside/photo.png", tarfile.REGTYPE),
        ("../outside/photo.png", tarfile.REGTYPE),
        ("../outside", tarfile.DIRTYPE),
        ("../outside/link.png", tarfile.SYMTYPE),
        ("../\x1b[31moutside/\nphoto.png", tarfile.REGTYPE),
    ],
)
def test_member_name_outside_the_tar_is_refused(name, kind, work, refuse, photo):
    tar = write(work / "photos.tar", member("photos/1.png"), member(name, kind, link="1.png"), photo=photo)
    assert f"source: names in a tar must not point outside of the tar, got {name!r} in '{tar}'" in refuse(
        "preprocess", "--source", tar
    )


def pax(size):
    """Return a regular member with another size in its extended header."""
    found = member("photos/2.png")
    found.pax_headers = {"size": size}
    return found.tobuf(tarfile.PAX_FORMAT)


def long_name(size):
    """Return the header of a long name of `size` bytes."""
    return member("././@LongLink", tarfile.GNUTYPE_LONGNAME, size).tobuf(tarfile.GNU_FORMAT)


WRONG_SIZES = {
    "more than the tar contains": (member("2.png", size=10**9).tobuf(tarfile.GNU_FORMAT), "unexpected end of data"),
    "more than a system can seek": (member("2.png", size=2**60).tobuf(tarfile.GNU_FORMAT), "unexpected end of data"),
    "more than any file contains": (member("2.png", size=2**87).tobuf(tarfile.GNU_FORMAT), ""),
    "negative": (member("2.png", size=-BLOCK).tobuf(tarfile.GNU_FORMAT), "a size of -512 bytes"),
    "negative, in the extended header": (pax("-512"), "a size of -512 bytes"),
    "name of a gigabyte": (long_name(2**30), "a header of 1073741824 bytes"),
    "name of negative length": (long_name(-BLOCK), ""),
    "chain of long names": ((long_name(BLOCK) + b"a" * BLOCK) * 1500, "maximum recursion depth exceeded"),
}


@pytest.mark.parametrize("name", WRONG_SIZES)
def test_header_with_a_wrong_size_is_refused(name, work, refuse, photo):
    header, why = WRONG_SIZES[name]
    tar = write(work / "photos.tar", member("photos/1.png"), photo=photo)
    os.truncate(tar, BLOCK + -(-len(photo) // BLOCK) * BLOCK)
    with tar.open("ab") as stream:
        stream.write(header + bytes(2 * BLOCK))
    error = refuse("preprocess", "--source", tar)
    assert f"source: must be a complete, uncompressed tar, got '{tar}' (" in error
    assert why in error


def make_sparse(content, real):
    """Return an old GNU sparse file, whose real size is in another field than the size of its data."""
    found = member("photos/sparse.png", tarfile.GNUTYPE_SPARSE, len(content))
    header = bytearray(found.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (0, len(content))
    header[483:495] = b"%011o\0" % real
    header[148:156] = b"%06o\0 " % (256 + sum(header[:148]) + sum(header[156:]))
    return bytes(header) + content.ljust(-(-len(content) // BLOCK) * BLOCK, b"\0")


def test_sparse_member_is_reported_and_does_not_read_the_bytes_of_others(tmp_path, photo):
    tar = write(tmp_path / "photos.tar", member("photos/secret.png"), photo=photo)
    rest = tar.read_bytes()
    tar.write_bytes(make_sparse(photo, 10 * len(photo)) + rest)
    with tarfile.open(tar) as read:
        assert read.getmember("photos/sparse.png").issparse()
    found = list_by_path(tar)
    assert (found["photos/sparse.png"].sha256, found["photos/sparse.png"].reason) == ("", "a sparse file: not read")
    assert found["photos/secret.png"].read_bytes() == photo


SPECIAL_FILES = {
    "link.png": (tarfile.SYMTYPE, "a link: not followed"),
    "hard.png": (tarfile.LNKTYPE, "a link: not followed"),
    "fifo.png": (tarfile.FIFOTYPE, "not a file: a device, FIFO or socket is not opened"),
    "device.png": (tarfile.CHRTYPE, "not a file: a device, FIFO or socket is not opened"),
    "disk.png": (tarfile.BLKTYPE, "not a file: a device, FIFO or socket is not opened"),
}


@pytest.fixture
def tar_with_special_files(work, photo):
    kinds = {name: kind for name, (kind, _) in SPECIAL_FILES.items()}
    special = [member(f"photos/{name}", kind, link="../../../etc/passwd") for name, kind in kinds.items()]
    return write(work / "photos.tar", member("photos/1.png"), *special, photo=photo)


def test_links_devices_and_fifos_are_listed_with_a_reason(tar_with_special_files, photo):
    found = list_by_path(tar_with_special_files)
    assert found["photos/1.png"].read_bytes() == photo
    assert {path: photo.reason for path, photo in found.items() if photo.reason} == {
        f"photos/{name}": reason for name, (_, reason) in SPECIAL_FILES.items()
    }
    assert {photo.sha256 for photo in found.values() if photo.reason} == {""}


def test_tar_with_only_links_has_no_image(work, refuse):
    tar = write(work / "photos.tar", member("photos/1.png", tarfile.SYMTYPE, link="../../outside/secret.png"))
    assert f"source: must contain an image, got the tar '{tar}'" in refuse("preprocess", "--source", tar)


def test_preprocess_reports_skipped_members_and_prepares_the_rest(work, tar_with_special_files, surroundings, photo):
    folder = work / "folder"
    folder.mkdir()
    (folder / "2.png").write_bytes(photo[:-30] + bytes(18) + photo[-12:])
    (folder / "3.png").write_bytes(photo)
    (folder / "linked").symlink_to(surroundings)
    (folder / "linked.png").symlink_to(surroundings / "secret.png")
    os.mkfifo(folder / "fifo.png")
    source = f"{tar_with_special_files},{folder}"
    printed = loupe("preprocess", "--source", source, "--label_size", "30", cwd=work).stdout
    for words in ("8 skipped, ", "4 a link", "4 not a file"):
        assert words in printed
    rows = pyarrow.parquet.read_table(next((work / "data").glob("*/manifest.parquet"))).to_pylist()
    reasons = {row["path"]: row["reason"] for row in rows if row["split"] is None}
    assert reasons["linked"] == reasons["linked.png"] == "a link: not followed"
    assert reasons["fifo.png"] == "not a file: a device, FIFO or socket is not opened"
    assert not {row["path"] for row in rows if "secret" in row["path"]}


def test_too_large_file_is_reported(tmp_path, photo, monkeypatch):
    tar = write(tmp_path / "photos.tar", member("photos/1.png"), photo=photo)
    size = sources.MAX_FILE_BYTES + 1
    with tar.open("r+b") as stream:
        stream.seek(BLOCK + -(-len(photo) // BLOCK) * BLOCK)
        stream.write(member("photos/bomb.png", size=size).tobuf(tarfile.GNU_FORMAT))
        stream.truncate(stream.tell() + size + 4 * BLOCK)  # a hole, which takes no disk space
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "1.png").write_bytes(photo)
    with (tmp_path / "folder" / "bomb.png").open("wb") as stream:
        stream.truncate(size)
    for found in (list_by_path(tar)["photos/bomb.png"], list_by_path(tmp_path / "folder")["bomb.png"]):
        assert (found.reason, found.sha256) == ("too large: 1073741825 bytes, at most 1073741824", "")


def test_large_member_is_hashed_in_little_memory(tmp_path, photo):
    tar = write(tmp_path / "photos.tar", member("photos/1.png"), photo=photo)
    with tar.open("r+b") as stream:
        stream.seek(BLOCK + -(-len(photo) // BLOCK) * BLOCK)
        stream.write(member("photos/large.png", size=10**8).tobuf(tarfile.GNU_FORMAT))
        stream.truncate(stream.tell() + 10**8 + 4 * BLOCK)
    tracemalloc.start()
    assert list_by_path(tar)["photos/large.png"].sha256
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**7
