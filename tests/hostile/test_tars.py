"""Tars that were made to do harm: nothing in them is followed, unpacked, or read beyond its own bytes."""

import io
import os
import tarfile
import tracemalloc

import pyarrow.parquet
import pytest
from jobs import loupe

from loupe.data import sources
from loupe.data.sources import list_photos

BLOCK = tarfile.BLOCKSIZE


def member(name, kind=tarfile.REGTYPE, size=0, link=""):
    found = tarfile.TarInfo(name)
    found.type, found.size, found.linkname = kind, size, link
    return found


def write(file, *members, photo=b""):
    """A tar of headers; the regular ones hold the photo."""
    with tarfile.open(file, "w", format=tarfile.GNU_FORMAT) as tar:
        for of in members:
            if of.isreg():
                of.size = len(photo)
            tar.addfile(of, io.BytesIO(photo) if of.isreg() else None)
    return file


def listed(source):
    return {photo.path: photo for photo in list_photos((str(source),), (), None, "data", quiet=True)}


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
def test_a_name_that_leads_outside_is_refused(name, kind, work, refused, photo):
    tar = write(work / "photos.tar", member("photos/1.png"), member(name, kind, link="1.png"), photo=photo)
    assert f"source: names in a tar must not point outside of it, got {name!r} in '{tar}'" in refused(
        "preprocess", "--source", tar
    )


def pax(size):
    """A regular member whose extended header gives it another size."""
    found = member("photos/2.png")
    found.pax_headers = {"size": size}
    return found.tobuf(tarfile.PAX_FORMAT)


def long_name(size):
    """The header of a long name that claims to be so many bytes."""
    return member("././@LongLink", tarfile.GNUTYPE_LONGNAME, size).tobuf(tarfile.GNU_FORMAT)


LIES = {
    "more than the file holds": (member("2.png", size=10**9).tobuf(tarfile.GNU_FORMAT), "unexpected end of data"),
    "more than any file holds": (member("2.png", size=2**87).tobuf(tarfile.GNU_FORMAT), ""),
    "less than nothing": (member("2.png", size=-BLOCK).tobuf(tarfile.GNU_FORMAT), "a size of -512 bytes"),
    "less than nothing, in words": (pax("-512"), "a size of -512 bytes"),
    "a name of a gigabyte": (long_name(2**30), "a header of 1073741824 bytes"),
    "a name of less than nothing": (long_name(-BLOCK), ""),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_about_its_size_is_refused(lie, work, refused, photo):
    header, why = LIES[lie]
    tar = write(work / "photos.tar", member("photos/1.png"), photo=photo)
    os.truncate(tar, BLOCK + -(-len(photo) // BLOCK) * BLOCK)
    with tar.open("ab") as stream:
        stream.write(header + bytes(2 * BLOCK))
    said = refused("preprocess", "--source", tar)
    assert f"source: must be a complete, uncompressed tar, got '{tar}' (" in said
    assert why in said


def old_sparse(content, real):
    """The header of an old GNU sparse file: `size` is what lies in the tar, the real size stands at the end."""
    found = member("photos/sparse.png", tarfile.GNUTYPE_SPARSE, len(content))
    header = bytearray(found.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (0, len(content))
    header[483:495] = b"%011o\0" % real
    header[148:156] = b"%06o\0 " % (256 + sum(header[:148]) + sum(header[156:]))
    return bytes(header) + content.ljust(-(-len(content) // BLOCK) * BLOCK, b"\0")


def test_a_sparse_member_is_told_and_never_takes_the_bytes_of_its_neighbours(tmp_path, photo):
    tar = write(tmp_path / "photos.tar", member("photos/secret.png"), photo=photo)
    rest = tar.read_bytes()
    tar.write_bytes(old_sparse(photo, 10 * len(photo)) + rest)
    with tarfile.open(tar) as read:
        assert read.getmember("photos/sparse.png").issparse()
    found = listed(tar)
    assert (found["photos/sparse.png"].sha256, found["photos/sparse.png"].reason) == ("", "a sparse file: not read")
    assert found["photos/secret.png"].read_bytes() == photo


KINDS = {
    "link.png": (tarfile.SYMTYPE, "a link: not followed"),
    "hard.png": (tarfile.LNKTYPE, "a link: not followed"),
    "fifo.png": (tarfile.FIFOTYPE, "not a file: a device, FIFO or socket is not opened"),
    "device.png": (tarfile.CHRTYPE, "not a file: a device, FIFO or socket is not opened"),
    "disk.png": (tarfile.BLKTYPE, "not a file: a device, FIFO or socket is not opened"),
}


@pytest.fixture
def tar_of_kinds(work, photo):
    strange = [member(f"photos/{name}", kind, link="../../../etc/passwd") for name, (kind, _) in KINDS.items()]
    return write(work / "photos.tar", member("photos/1.png"), *strange, photo=photo)


def test_what_is_no_file_is_listed_with_the_reason(tar_of_kinds, photo):
    found = listed(tar_of_kinds)
    assert found["photos/1.png"].read_bytes() == photo
    assert {path: of.reason for path, of in found.items() if of.reason} == {
        f"photos/{name}": reason for name, (_, reason) in KINDS.items()
    }
    assert {of.sha256 for of in found.values() if of.reason} == {""}


def test_a_tar_of_links_alone_has_no_image(work, refused):
    tar = write(work / "photos.tar", member("photos/1.png", tarfile.SYMTYPE, link="../../outside/secret.png"))
    assert f"source: must contain an image, got the tar '{tar}'" in refused("preprocess", "--source", tar)


@pytest.mark.slow
def test_the_command_prepares_the_others_and_tells_what_is_left_out(work, tar_of_kinds, surroundings, photo):
    folder = work / "folder"
    folder.mkdir()
    (folder / "2.png").write_bytes(photo[:-30] + bytes(18) + photo[-12:])
    (folder / "3.png").write_bytes(photo)
    (folder / "linked").symlink_to(surroundings)
    (folder / "linked.png").symlink_to(surroundings / "secret.png")
    os.mkfifo(folder / "fifo.png")
    said = loupe("preprocess", "--source", f"{tar_of_kinds},{folder}", "--label_size", "30", cwd=work).stdout
    assert "8 skipped, " in said or "9 skipped, " in said
    assert "4 a link" in said
    assert "4 not a file" in said
    rows = pyarrow.parquet.read_table(next((work / "data").glob("*/manifest.parquet"))).to_pylist()
    reasons = {row["path"]: row["reason"] for row in rows if row["split"] is None}
    assert reasons["linked"] == reasons["linked.png"] == "a link: not followed"
    assert reasons["fifo.png"] == "not a file: a device, FIFO or socket is not opened"
    assert not {row["path"] for row in rows if "secret" in row["path"]}


def test_a_bomb_is_too_large_and_told(tmp_path, photo, monkeypatch):
    tar = write(tmp_path / "photos.tar", member("photos/1.png"), photo=photo)
    size = sources.MAX_FILE_BYTES + 1
    with tar.open("r+b") as stream:
        stream.seek(BLOCK + -(-len(photo) // BLOCK) * BLOCK)
        stream.write(member("photos/bomb.png", size=size).tobuf(tarfile.GNU_FORMAT))
        stream.truncate(stream.tell() + size + 4 * BLOCK)  # a hole: nothing of it is on the disk
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "1.png").write_bytes(photo)
    with (tmp_path / "folder" / "bomb.png").open("wb") as stream:
        stream.truncate(size)
    for found in (listed(tar)["photos/bomb.png"], listed(tmp_path / "folder")["bomb.png"]):
        assert (found.reason, found.sha256) == ("too large: 1073741825 bytes, at most 1073741824", "")


def test_a_large_member_is_hashed_without_filling_the_memory(tmp_path, photo):
    tar = write(tmp_path / "photos.tar", member("photos/1.png"), photo=photo)
    with tar.open("r+b") as stream:
        stream.seek(BLOCK + -(-len(photo) // BLOCK) * BLOCK)
        stream.write(member("photos/large.png", size=10**8).tobuf(tarfile.GNU_FORMAT))
        stream.truncate(stream.tell() + 10**8 + 4 * BLOCK)
    tracemalloc.start()
    assert listed(tar)["photos/large.png"].sha256
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**7
