"""Lists the photos of sources, with content hashes."""

import hashlib
import importlib.util
import itertools
import os
import re
import stat
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from loupe.config.datasets import Preprocess
from loupe.data import storage, tars
from loupe.data.download import download
from loupe.data.manifest import MANIFEST
from loupe.errors import UsageError
from loupe.imaging.threads import count_cores

SAMPLE_SOURCE = "sample"  # the value of `source` for the bundled photos
# Folder and files of each package: only photographs, and one image of each stereo pair
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

# Pillow has extensions for these formats, but does not decode them, or only with other programs
UNREADABLE_FORMATS = frozenset(("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PALM", "PDF", "WMF"))
MAX_FILE_BYTES = 2**30  # one file per core must fit into memory
HASH_CHUNK_BYTES = 2**20
MIN_HASH_TASKS = 64
MAX_PHOTOS_PER_TASK = 64
MAX_NAME_BYTES = 160


@dataclass(frozen=True, slots=True)
class SourcePhoto:
    """One file of a source."""

    source: str = field(repr=False)  # `sample`, path or URL; not in the repr, because a URL can contain a password
    path: str  # in the source, with / between folders
    category: str  # top-level folder of the path, or ""
    file: str = field(repr=False)  # path or URL of the file, or of its tar
    offset: int = 0  # position of the content in `file`, in bytes
    size: int | None = None  # bytes of the content; None: up to the end of `file`
    sha256: str = ""  # content hash; "" before hashing, or if the file is skipped
    reason: str = ""  # why the file is skipped, or ""

    def read_bytes(self) -> bytes:
        """Return the content; raise OSError, or LoupeError for a URL, if it cannot be read."""
        if storage.is_url(self.file):
            return storage.read_range(self.file, self.offset, self.size or 0)
        with open(self.file, "rb") as stream:
            stream.seek(self.offset)
            return stream.read(-1 if self.size is None else self.size)


def list_photos(settings: Preprocess) -> list[SourcePhoto]:
    """List the photos of all sources with their content hashes, sorted by path.

    Files that cannot be read are also listed, with the reason. With `limit`, the photos with the smallest content
    hashes are kept. Downloads are stored in `data_dir`. If `data_dir` is a URL, they are stored in its local cache.

    Raises:
        UsageError: a source does not exist, is not a folder, tar or image, or contains no image; a category does not
            exist; or a name in a tar points outside of the tar.
        LoupeError: a download or an access to a URL failed.
    """
    photos = [photo for source in settings.source for photo in _list_source(source, settings)]
    if settings.categories:
        known = {photo.category for photo in photos}
        for category in settings.categories:
            if category not in known:
                raise UsageError(f"categories: must be folders of {','.join(settings.source)}, got {category!r}")
        photos = [photo for photo in photos if photo.category in settings.categories]
    if len(settings.source) > 1:  # such as photos,./photos: the first of equal files counts
        photos = list({(photo.file, photo.offset): photo for photo in reversed(photos)}.values())
    size = max(1, min(MAX_PHOTOS_PER_TASK, len(photos) // MIN_HASH_TASKS))
    chunks = [photos[start : start + size] for start in range(0, len(photos), size)]
    # Threads that read URLs mostly wait for the network. With None, Python starts up to 4 more threads than cores.
    thread_count = None if any(storage.is_url(photo.file) for photo in photos) else count_cores()
    with ThreadPoolExecutor(thread_count) as threads:
        hashed = threads.map(lambda chunk: list(map(_hash_photo, chunk)), chunks)
        photos = list(itertools.chain.from_iterable(hashed))
    if settings.limit is not None:
        # Files that are not images count only if there are too few images.
        photos = sorted(
            photos,
            key=lambda photo: (not photo.sha256 or not _is_image(photo.path), photo.sha256, photo.path),
        )[: settings.limit]
    return sorted(photos, key=lambda photo: (photo.path, photo.sha256))


def name_sources(sources: tuple[str, ...]) -> str:
    """Return a name of the sources, such as `caltech256-subset+sample`, for the names of folders and runs."""
    public = [storage.remove_secrets(source) if storage.is_url(source) else source for source in sources]
    names = [Path(source).stem if os.path.exists(source) or storage.is_url(source) else source for source in public]
    name = re.sub(r"[^\w.+-]+", "-", "+".join(names)).lstrip(".")
    return name.encode()[:MAX_NAME_BYTES].decode(errors="ignore") or "photos"


def find_bundled_photo() -> Path:
    """Return the path of a colour photo, 600x400 pixels, from the test split of the sample."""
    return _find_package_folder("skimage") / SAMPLE["skimage"][0] / "coffee.png"


def _list_source(source: str, settings: Preprocess) -> Iterator[SourcePhoto]:
    if source == SAMPLE_SOURCE:
        return _list_sample()
    if source == "caltech256":
        file = storage.get_local_folder(settings.data_dir) / "256_ObjectCategories.tar"
        download(file, **CALTECH_256, quiet=settings.quiet)
        return _list_tar(str(file), str(file.resolve()))
    if storage.is_url(source):
        return _list_url(source)
    path = Path(source)
    name = source if str(path) == SAMPLE_SOURCE else str(path)  # `./sample` is a file or folder of the user
    # For a path that is too long, Path.is_dir raises an error.
    if os.path.isdir(path):
        return _list_folder(path, name)
    if os.path.isfile(path) and _is_image(path.name):
        return iter([SourcePhoto(source, _split_path(path.name)[-1], "", str(path.resolve()))])
    if os.path.isfile(path):
        return _list_tar(name, str(path.resolve()))
    raise UsageError(
        f"source: must be sample, caltech256, a URL, or an existing image, tar or folder, got {source!r}"
    )


def _list_sample() -> Iterator[SourcePhoto]:
    for package, (subfolder, names) in SAMPLE.items():
        folder = _find_package_folder(package) / subfolder
        for name in names:
            yield SourcePhoto(SAMPLE_SOURCE, f"{package}/{name}", package, str(folder / name))


def _find_package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    return Path(spec.origin).parent


def _list_folder(root: Path, source: str) -> Iterator[SourcePhoto]:
    """Yield the files of a folder and its subfolders, without hidden ones; also yield unreadable subfolders.

    Subfolders that Loupe and MLflow write are omitted: prepared datasets, and `mlruns` next to a store.
    """
    if _is_dataset(root):
        raise _refuse_dataset(root)
    files: dict[Path, str] = {}  # the reason for skipping each file, or ""
    folders = [root]
    while folders:  # os.walk fails at a thousand nested folders and ignores errors
        folder = folders.pop()
        try:
            names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
        except OSError as error:
            if folder == root:
                raise UsageError(f"source: must be readable, got {str(root)!r}: {error.strerror}") from None
            files[folder] = f"cannot be read: {error.strerror}"
            continue
        for file in map(folder.joinpath, names):
            try:
                mode = file.lstat().st_mode
            except FileNotFoundError:  # deleted since the listing of its folder
                continue
            except OSError as error:
                files[file] = f"cannot be read: {error.strerror}"
                continue
            if stat.S_ISDIR(mode):
                if not (_is_dataset(file) or (file.name == "mlruns" and (folder / "mlflow.db").exists())):
                    folders.append(file)
            else:
                files[file] = _explain_skip(stat.S_ISREG(mode), stat.S_ISLNK(mode))
    if not any(_is_image(file.name) for file, reason in files.items() if not reason):
        skipped = {file.relative_to(root).as_posix(): reason for file, reason in files.items()}
        raise _refuse_without_image(f"the folder {str(root)!r}", skipped)
    for file, reason in files.items():
        parts = _split_path(file.relative_to(root).as_posix())
        category = parts[0] if len(parts) > 1 else ""
        location = str(file if reason else file.resolve())
        yield SourcePhoto(source, "/".join(parts), category, location, reason=reason)


def _is_dataset(folder: Path) -> bool:
    """Return whether a folder is a prepared dataset. If the path of the manifest is too long, return False."""
    return os.path.exists(folder / MANIFEST)


def _refuse_dataset(location: Path | str) -> UsageError:
    hint = "train and evaluate read it with --dataset"
    return UsageError(f"source: must be photos, got the prepared dataset {str(location)!r}; {hint}")


def _refuse_without_image(source: str, skipped: dict[str, str]) -> UsageError:
    """Make the error for a source without readable images; `skipped` has the reason for skipping each file."""
    images = (f" ({path!r}: {reason})" for path, reason in skipped.items() if _is_image(path))
    return UsageError(f"source: must contain an image, got {source}{next(images, '')}")


def _explain_skip(is_file: bool, is_link: bool, is_sparse: bool = False) -> str:
    """Return why a file is skipped, or "". A link can lead out of the source; a FIFO can block forever."""
    if is_link:
        return "a link: not followed"
    if is_sparse:
        return "a sparse file: not read"
    return "" if is_file else "not a file: a device, FIFO or socket is not opened"


def _list_url(source: str) -> Iterator[SourcePhoto]:
    """Yield the files of a folder or tar at a URL, without hidden ones and prepared datasets, or a single image."""
    files = storage.list_files(source)
    name = storage.remove_secrets(source).rpartition("/")[2]
    if list(files) == [""] and _is_image(name):
        return iter([SourcePhoto(source, name, "", source, 0, files[""])])
    if list(files) == [""]:
        return _list_tar(source, source)
    if MANIFEST in files:
        raise _refuse_dataset(source)
    datasets = tuple(path.removesuffix(MANIFEST) for path in files if path.endswith(f"/{MANIFEST}"))
    paths = {path: _split_path(path) for path in sorted(files) if not path.startswith(datasets)}
    paths = {path: parts for path, parts in paths.items() if not any(part.startswith(".") for part in parts)}
    if not any(_is_image(path) for path in paths):
        raise _refuse_without_image(repr(source), {})
    return (
        SourcePhoto(source, "/".join(parts), parts[0] if len(parts) > 1 else "", storage.join_path(source, path), 0,
                    files[path])
        for path, parts in paths.items()
    )  # fmt: skip


def _list_tar(source: str, file: str) -> Iterator[SourcePhoto]:
    """Yield the files of an uncompressed tar, without hidden files and folders.

    Paths omit a single top-level folder that has only subfolders.
    """
    members = [
        (parts, member.offset, member.size, _explain_skip(member.is_file, member.is_link, member.is_sparse))
        for member in tars.list_members(file)
        if (parts := _split_path(member.name)) and not any(part.startswith(".") for part in parts)
    ]
    readable = [parts for parts, *_, reason in members if not reason]
    if not any(_is_image(parts[-1]) for parts in readable):
        raise _refuse_without_image(f"the tar {source!r}", {"/".join(parts): reason for parts, *_, reason in members})
    top_folders = {parts[0] for parts in readable}
    omit_top = len(top_folders) == 1 and all(len(parts) > 2 for parts in readable)
    for parts, offset, size, reason in members:
        path = parts[1:] if omit_top and parts[0] in top_folders and len(parts) > 1 else parts
        category = sys.intern(path[0]) if len(path) > 1 else ""
        yield SourcePhoto(source, "/".join(path), category, file, offset, size, reason=reason)


def _split_path(path: str) -> list[str]:
    """Return the folders and the file name of a path; invalid UTF-8 becomes U+FFFD."""
    text = os.fsencode(path).decode(errors="replace")
    return [part for part in text.split("/") if part not in ("", ".")]


def _is_image(name: str) -> bool:
    """Return whether a name has the extension of a format that Pillow decodes."""
    return Image.registered_extensions().get(Path(name).suffix.lower()) not in (None, *UNREADABLE_FORMATS)


def _hash_photo(photo: SourcePhoto) -> SourcePhoto:
    """Return the photo with its content hash and size, or with the reason why it cannot be read."""
    if photo.reason:
        return photo
    try:
        size = remaining = os.stat(photo.file).st_size if photo.size is None else photo.size
        if remaining > MAX_FILE_BYTES:
            return replace(photo, reason=f"too large: {remaining} bytes, at most {MAX_FILE_BYTES}")
        if storage.is_url(photo.file):
            return replace(photo, sha256=hashlib.sha256(photo.read_bytes()).hexdigest())
        digest = hashlib.sha256()
        with open(photo.file, "rb") as stream:
            stream.seek(photo.offset)
            while chunk := stream.read(min(remaining, HASH_CHUNK_BYTES)):
                digest.update(chunk)
                remaining -= len(chunk)
        return replace(photo, size=size, sha256=digest.hexdigest())
    except OSError as error:
        return replace(photo, reason=f"cannot be read: {error.strerror or error}")
