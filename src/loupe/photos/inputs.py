"""Lists the photos of the inputs, and chooses a file for each result."""

import glob
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image

from loupe.errors import UsageError
from loupe.imaging.atomic import validate_output_file
from loupe.imaging.formats import FORMATS, READ_FORMATS, choose_extension, is_heif, is_jpeg_xl


@dataclass(frozen=True)
class PhotoJob:
    """A photo and the file for its result."""

    photo: Path
    out: Path


@dataclass(frozen=True)
class PhotoList:
    """The files that the inputs select.

    Args:
        jobs: the photos, with the files for the results.
        failures: images, links and folders that are not processed, with reasons.
        others: files that are not images.
    """

    jobs: list[PhotoJob] = field(default_factory=list)
    failures: list[tuple[Path, str]] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)


def find_photos_in_place(inputs: Sequence[str]) -> PhotoList:
    """List the photos of the inputs; each photo is also the file for its result.

    Links, and photos of formats that Loupe can only read, become failures.
    """
    # `find_photos` skips the folder for results. A folder in `os.devnull` cannot exist, so no folder is skipped.
    found = find_photos(inputs, Path(os.devnull, "none"))
    jobs: dict[str, PhotoJob] = {}
    for job in found.jobs:
        if job.photo.is_symlink():
            found.failures.append((job.photo, "links are not replaced"))
        elif job.photo.suffix.lower() not in FORMATS:
            found.failures.append((job.photo, f"{job.photo.suffix} files can only be read, not replaced"))
        else:
            # Several paths can lead to the same file.
            jobs.setdefault(os.path.realpath(job.photo), PhotoJob(job.photo, job.photo))
    return PhotoList([*jobs.values()], found.failures, found.others)


def find_photos(inputs: Sequence[str], out: Path, extension: str | None = None, suffix: str = "") -> PhotoList:
    """List the photos of the inputs and choose a unique file for each result.

    Folders are searched recursively, and their results keep the folder structure. With several inputs, the results of
    a folder are in the subfolder of `out` with the name of this folder. A link in a folder becomes a failure if it
    leads to a folder, or to a file outside of the searched folder.

    Args:
        inputs: files, folders, and patterns such as `holiday/**/*.jpg`.
        out: a folder, or a file for a single photo.
        extension: the extension of all results; None keeps the extension of each photo, or uses .jpg if Loupe cannot
            write its format.
        suffix: added to the names of results in a folder, before the extension.

    Raises:
        UsageError: an input does not exist or is a pipe, or `out` is not valid for the inputs.
    """
    paths = list(dict.fromkeys(path for text in inputs for path in expand_input(text, out)))
    if len(paths) > 1:  # in `loupe upscale * --out big`, * also matches an existing folder `big`
        paths = [path for path in paths if not (os.path.isdir(path) and os.path.isdir(out) and path.samefile(out))]
    # For a link to a name that is too long, os.path.isdir returns False, but Path.is_dir raises an error.
    single = len(paths) == 1 and not os.path.isdir(paths[0])
    if single and out.suffix.lower() in FORMATS and not os.path.isdir(out):
        _validate_file(out, extension)
        if suffix:
            raise UsageError(f"suffix: must be none if out is a file, got {suffix!r}")
        if _is_special(paths[0]):
            got = f"the device, pipe or stream {str(paths[0])!r}"
            raise UsageError(f"inputs: must be regular files, folders or patterns, got {got}")
        found = PhotoList([PhotoJob(paths[0], out)])
    else:
        _validate_folder(out, single)
        search = _Search(out, extension, suffix)
        for path in paths:
            if os.path.isdir(path):
                search.add_folder(path, out / path.resolve().name if len(paths) > 1 else out)
            else:
                search.add_file(path, out / path.name)
        found = replace(search.found, jobs=_drop_results(search.found.jobs))
    _validate_no_overwriting(found)
    return found


def expand_input(text: str, out: Path) -> list[Path]:
    """Return the path `text`, or the matches of the pattern `text`.

    Matches in `out`, the results of earlier calls, are omitted, unless all matches are in `out`. If a folder
    matches, matches in it are omitted, because the folder is searched.

    Raises:
        UsageError: the path does not exist, and is not a pattern with matches.
    """
    path = Path(text)
    if text.strip() and os.path.lexists(path):
        return [path]
    matches = [Path(match) for match in sorted(glob.glob(text, recursive=True))] if glob.has_magic(text) else []
    if not matches:
        raise UsageError(f"inputs: must be existing files, folders or patterns, got {text!r}")
    matches = [match for match in matches if not _is_within(match, out)] or matches
    folders = set(matches)
    return [match for match in matches if folders.isdisjoint(match.parents)]


def _validate_file(out: Path, extension: str | None) -> None:
    validate_output_file("out", out)
    if extension and FORMATS[extension] != FORMATS[out.suffix.lower()]:
        raise UsageError(f"format: must be 'same' or the format of the file {str(out)!r}, got {extension[1:]!r}")


def _validate_folder(out: Path, single: bool) -> None:
    if os.path.isdir(out):
        return
    if out.suffix and single:
        raise UsageError(f"out: must be a folder or end in one of {', '.join(FORMATS)}, got {str(out)!r}")
    if os.path.exists(out) or out.suffix.lower() in READ_FORMATS:
        got = "file" if os.path.exists(out) else "file name"
        raise UsageError(f"out: must be a folder for several photos, got the {got} {str(out)!r}")


def _drop_results(jobs: list[PhotoJob]) -> list[PhotoJob]:
    """Remove photos that are the result of another photo in the same folder: results of an earlier call."""
    paths = {job: (_resolve_folder(job.photo), _resolve_folder(job.out)) for job in jobs}
    results = {out for photo, out in paths.values() if photo != out and photo.parent == out.parent}
    return [job for job in jobs if paths[job][0] not in results]


def _resolve_folder(path: Path) -> Path:
    return Path(os.path.realpath(path.parent), path.name)


def _validate_no_overwriting(found: PhotoList) -> None:
    photos = {_identify(job.photo) for job in found.jobs} - {None}
    for job in found.jobs:
        if _identify(job.out) in photos:
            raise UsageError(f"out: must not replace a photo of the inputs, got {str(job.out)!r}")


def _identify(path: Path) -> tuple[int, int] | None:
    """Return the device and inode of a file; None if the system cannot read them."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


class _Search:
    """Collects the photos of files and folders. A subfolder that is `out` is not searched."""

    def __init__(self, out: Path, extension: str | None, suffix: str) -> None:
        self.found = PhotoList()
        self._results, self._extension, self._suffix = out.resolve(), extension, suffix
        self._names: set[str] = set()

    def add_folder(self, folder: Path, target: Path) -> None:
        """Add the files in a folder and its subfolders."""
        failures = self.found.failures

        def add_failure(error: OSError) -> None:
            failures.append((Path(str(error.filename)), (error.strerror or str(error)).lower()))

        for parent, folders, files in os.walk(folder, onerror=add_failure):
            here, searched_folders = Path(parent), []
            for name in sorted(folders):
                try:
                    if (here / name).is_symlink():
                        failures.append((here / name, "links to folders are not followed"))
                    elif (here / name).resolve() != self._results:
                        searched_folders.append(name)
                except OSError as error:
                    add_failure(error)
            folders[:] = searched_folders
            for name in sorted(files):
                try:
                    if (here / name).is_symlink() and not _is_within(here / name, folder):
                        failures.append((here / name, "links to files outside of the folder are not followed"))
                    else:
                        self.add_file(here / name, target / (here / name).relative_to(folder))
                except OSError as error:
                    add_failure(error)

    def add_file(self, path: Path, out: Path) -> None:
        """Add a file. If another photo has the result `out` (ignoring case), this result's name ends in a number."""
        if path.name.startswith((".loupe-", "._")):  # temporary files, and macOS's metadata
            return
        if _is_special(path):
            self.found.others.append(path)
        elif path.suffix.lower() in READ_FORMATS:
            self.found.jobs.append(PhotoJob(path, self._make_unique(out)))
        elif _is_image(path):
            unread = f"Loupe does not read files with the extension {path.suffix}"
            self.found.failures.append((path, f"is an image, but {unread if path.suffix else 'has no extension'}"))
        else:
            self.found.others.append(path)

    def _make_unique(self, out: Path) -> Path:
        named = self._name_result(out)
        first = named.with_name(f"{named.stem}{self._suffix}{named.suffix}")
        name, number = first, 2
        # The file system of `out` may ignore case, such as a memory card's.
        while str(name).casefold() in self._names:
            name = first.with_name(f"{first.stem}-{number}{first.suffix}")
            number += 1
        self._names.add(str(name).casefold())
        return name

    def _name_result(self, out: Path) -> Path:
        """Return the path of a result before `_make_unique` adds a suffix or number.

        If the format changes, the name contains both extensions: photo.png becomes photo.png.jpg. A photo that
        already has this name then becomes photo.png.jpg.jpg.
        """
        extension = self._extension or choose_extension(out.suffix)
        inner = Path(out.stem)
        is_same = READ_FORMATS[out.suffix.lower()] == FORMATS[extension.lower()]
        if is_same and not (inner.suffix.lower() in READ_FORMATS and self._name_result(inner) == Path(out.name)):
            return out
        return out.with_name(out.name + extension)


def _is_special(path: Path) -> bool:
    """Return whether a path, which is not a folder, is a device, pipe or socket; opening a pipe can hang."""
    return os.path.exists(path) and not os.path.isfile(path)


def _is_image(path: Path) -> bool:
    """Return whether Pillow can open a file, or whether the file begins like HEIF or JPEG XL.

    ICO is not tried, because Pillow decodes an ICO when it opens the file.
    """
    Image.init()
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            head = file.read(12)
            if is_heif(head) or is_jpeg_xl(head):
                return True
            warnings.simplefilter("ignore")
            Image.open(path, formats=[name for name in Image.ID if name != "ICO"]).close()
    except Exception:
        return False
    return True


def _is_within(path: Path, folder: Path) -> bool:
    # Before Python 3.13, Path.resolve fails for a loop of links.
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
