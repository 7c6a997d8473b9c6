"""Where photos come from: lists what `source` names, with the place and content hash of every photo."""

import hashlib
import importlib.util
import os
import re
import stat
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from loupe.data import storage, tars
from loupe.data.download import download
from loupe.errors import UsageError

# Photographs only: no diagrams, no text, no drawings, one of each stereo pair.
SAMPLE = {
    "sklearn": ("datasets/images", ["china.jpg", "flower.jpg"]),
    "skimage": (
        "data",
        [
            "astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png",
            "coffee.png", "coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png",
            "moon.png", "motorcycle_left.png", "retina.jpg", "rocket.jpg",
        ],
    ),
}  # fmt: skip

CALTECH_256: dict[str, Any] = {
    "url": "https://data.caltech.edu/records/nyy15-4j048/files/256_ObjectCategories.tar?download=1",
    "md5": "67b4f42ca05d46448c6bb8ecd2220f6d",
    "size": 1_183_006_720,
}

MAX_FILE_BYTES = 2**30  # bytes of one photo: more is no photo, and would not fit into the memory of every core
HASH_CHUNK_BYTES = 2**20  # bytes of a file that are hashed at a time
MAX_NAME_BYTES = 160  # bytes that the name of a source takes in the names of folders


@dataclass(frozen=True, slots=True)
class SourcePhoto:
    """One file of a source: where its bytes lie, and their sha256 ("" where they cannot be read)."""

    source: str  # as it was named in the settings
    path: str  # inside the source, with / between folders
    category: str  # the topmost folder that it lies in, "" for none
    file: str  # or its address
    offset: int = 0
    size: int | None = None  # None: to the end of the file
    sha256: str = ""
    reason: str = ""  # why it cannot be read

    def opened(self) -> Path | bytes:
        """The file, or its bytes where it is a part of a tar or at an address."""
        if self.size is None:
            return Path(self.file)
        if storage.is_url(self.file):
            return storage.read_range(self.file, self.offset, self.size)
        with open(self.file, "rb") as stream:
            stream.seek(self.offset)
            return stream.read(self.size)


def list_photos(
    sources: tuple[str, ...], categories: tuple[str, ...], limit: int | None, data_dir: str, quiet: bool
) -> list[SourcePhoto]:
    """List the photos of all sources, sorted by path, each with its content hash.

    Args:
        sources: `sample`, `caltech256` (downloaded into data_dir once), paths or addresses of tars or folders.
        categories: keep only photos of these; () keeps all.
        limit: keep only so many, those of the smallest content hashes, so that a larger limit contains a
            smaller one; None keeps all.
        data_dir: where downloads are kept.
        quiet: show no progress of a download.

    Raises:
        UsageError: a source does not exist, is of another kind, or holds no image; or a name in a tar leads
            outside of it.
    """
    found = [photo for source in sources for photo in _list_source(source, data_dir, quiet)]
    if categories:
        known = {photo.category for photo in found}
        for category in categories:
            if category not in known:
                raise UsageError(f"categories: {category!r} is not among those of {','.join(sources)}")
        found = [photo for photo in found if photo.category in categories]
    if any(storage.is_url(photo.file) for photo in found):
        with ThreadPoolExecutor() as threads:  # which wait for the network together
            hashed = list(threads.map(_hash_photo, found))
    else:
        hashed = list(map(_hash_photo, found))
    if limit is not None:
        hashed = sorted(hashed, key=lambda photo: (not photo.sha256, photo.sha256, photo.path))[:limit]
    return sorted(hashed, key=lambda photo: (photo.path, photo.sha256))


def name_sources(sources: tuple[str, ...]) -> str:
    """A name of the sources for folders and runs: `sample`, `caltech256-subset+sample`."""
    names = [Path(source).stem if os.path.exists(source) or storage.is_url(source) else source for source in sources]
    plain = re.sub(r"[^\w.+-]+", "-", "+".join(names)).lstrip(".")
    return plain.encode()[:MAX_NAME_BYTES].decode(errors="ignore") or "photos"


def find_bundled_photo() -> Path:
    """A bundled colour photo for examples: the cat Chelsea, 451x300 pixels."""
    return _find_package_folder("skimage") / SAMPLE["skimage"][0] / "chelsea.png"


def _list_source(source: str, data_dir: str, quiet: bool) -> Iterator[SourcePhoto]:
    if source == "sample":
        return _list_sample()
    if source == "caltech256":
        file = download(storage.get_local_folder(data_dir) / "256_ObjectCategories.tar", **CALTECH_256, quiet=quiet)
        return _list_tar(str(file), str(file.resolve()))
    if storage.is_url(source):
        return _list_url(source)
    path = Path(source)
    if path.is_dir():
        return _list_folder(path)
    if path.is_file():
        return _list_tar(str(path), str(path.resolve()))
    raise UsageError(f"source: must be sample, caltech256, a tar or a folder that exists, got {source!r}")


def _list_sample() -> Iterator[SourcePhoto]:
    for package, (folder, names) in SAMPLE.items():
        for name in names:
            yield SourcePhoto(
                "sample", f"{package}/{name}", package, str(_find_package_folder(package) / folder / name)
            )


def _find_package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)  # finds the folder, imports nothing
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    return Path(spec.origin).parent


def _list_folder(root: Path) -> Iterator[SourcePhoto]:
    files: dict[Path, str] = {}  # with the reason why one is not opened
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in (*subfolders, *sorted(name for name in names if not name.startswith("."))):
            mode = (Path(folder) / name).lstat().st_mode
            if not stat.S_ISDIR(mode):
                files[Path(folder) / name] = _explain_skip(stat.S_ISREG(mode), stat.S_ISLNK(mode))
    if not any(_is_image(file.name) for file, reason in files.items() if not reason):
        raise UsageError(f"source: no image in the folder {str(root)!r}")
    for file, reason in files.items():
        parts = _split_path(file.relative_to(root).as_posix())
        category = parts[0] if len(parts) > 1 else ""
        place = str(file if reason else file.resolve())
        yield SourcePhoto(str(root), "/".join(parts), category, place, reason=reason)


def _explain_skip(is_file: bool, is_link: bool, is_sparse: bool = False) -> str:
    """Why something in a folder or tar is not opened: links lead elsewhere, and FIFOs wait; "" for plain files."""
    if is_link:
        return "a link: not followed"
    if is_sparse:
        return "a sparse file: not read"
    return "" if is_file else "no file: a device, FIFO or socket is not opened"


def _list_url(source: str) -> Iterator[SourcePhoto]:
    """A folder in an object store, or a tar."""
    files = storage.list_files(source)
    if list(files) == [""]:
        return _list_tar(source, source)
    shown = {path: _split_path(path) for path in sorted(files)}
    shown = {path: parts for path, parts in shown.items() if not any(part.startswith(".") for part in parts)}
    if not any(_is_image(path) for path in shown):
        raise UsageError(f"source: no image at {source!r}")
    return (
        SourcePhoto(source, "/".join(parts), parts[0] if len(parts) > 1 else "", storage.join_path(source, path), 0,
                    files[path])
        for path, parts in shown.items()
    )  # fmt: skip


def _list_tar(source: str, file: str) -> Iterator[SourcePhoto]:
    """The files of an uncompressed tar; a topmost folder that holds them all is no part of their paths."""
    members = [
        (parts, member.offset, member.size, _explain_skip(member.is_file, member.is_link, member.is_sparse))
        for member in tars.list_members(file)
        if (parts := _split_path(member.name)) and not any(part.startswith(".") for part in parts)
    ]
    plain = [parts for parts, *_, reason in members if not reason]
    if not any(_is_image(parts[-1]) for parts in plain):
        raise UsageError(f"source: no image in the tar {source!r}")
    tops = {parts[0] for parts in plain}
    wrapped = len(tops) == 1 and all(len(parts) > 2 for parts in plain)
    for parts, offset, size, reason in members:
        inner = parts[1:] if wrapped and parts[0] in tops and len(parts) > 1 else parts
        category = sys.intern(inner[0]) if len(inner) > 1 else ""
        yield SourcePhoto(source, "/".join(inner), category, file, offset, size, reason=reason)


def _split_path(path: str) -> list[str]:
    """The folders and the file's name; bytes that are no UTF-8 become U+FFFD, as the manifest needs it."""
    text = os.fsencode(path).decode(errors="replace")
    return [part for part in text.split("/") if part not in ("", ".")]


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in Image.registered_extensions()


def _hash_photo(photo: SourcePhoto) -> SourcePhoto:
    """With the hash of its bytes, or with the reason why it has none; in memory that a large file does not fill."""
    if photo.reason:
        return photo
    try:
        left = os.stat(photo.file).st_size if photo.size is None else photo.size
        if left > MAX_FILE_BYTES:
            return replace(photo, reason=f"too large: {left} bytes, at most {MAX_FILE_BYTES}")
        if storage.is_url(photo.file):
            return replace(
                photo, sha256=hashlib.sha256(storage.read_range(photo.file, photo.offset, left)).hexdigest()
            )
        digest = hashlib.sha256()
        with open(photo.file, "rb") as stream:
            stream.seek(photo.offset)
            while part := stream.read(min(left, HASH_CHUNK_BYTES)):
                digest.update(part)
                left -= len(part)
        return replace(photo, sha256=digest.hexdigest())
    except OSError as error:
        return replace(photo, reason=f"cannot be read: {error.strerror or error}")
