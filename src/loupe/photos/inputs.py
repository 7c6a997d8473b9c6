"""Files, folders and globs to pairs of a photo and the file that its result goes to."""

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from loupe.errors import UsageError
from loupe.imaging.atomic import validate_output_file
from loupe.imaging.decoder import PhotoError
from loupe.imaging.reader import FORMATS


@dataclass(frozen=True)
class Job:
    """A photo, and the file that its result goes to."""

    photo: Path
    out: Path


@dataclass(frozen=True)
class Found:
    """What inputs hold: photos, things that can be no photos with the reason, and other files."""

    jobs: list[Job]
    failures: list[tuple[Path, str]]
    others: list[Path]


def find(inputs: Sequence[str], out: Path, suffix: str | None = None) -> Found:
    """List the photos of inputs, and name a result for each, no two alike.

    Below folders all files are listed, whose names end as images do or that are images; the tree is kept, below the
    folder's own name where there are several inputs. Links to folders, and those out of the folder, are not followed.

    Args:
        inputs: files, folders, and patterns such as `holiday/**/*.jpg`.
        out: a folder; or, for one file, the file to write.
        suffix: of all results, such as `.png`; None keeps each photo's own.

    Raises:
        UsageError: an input does not exist, or `out` does not fit.
    """
    paths = list(dict.fromkeys(path for text in inputs for path in _expanded(text)))
    if len(paths) > 1:  # `loupe upscale * --out big` the second time
        paths = [path for path in paths if not (path.is_dir() and out.is_dir() and path.samefile(out))]
    single = len(paths) == 1 and not paths[0].is_dir()
    if single and out.suffix.lower() in FORMATS and not out.is_dir():
        validate_output_file("out", out)
        if suffix and FORMATS[suffix] != FORMATS[out.suffix.lower()]:
            raise UsageError(f"format: must be that of out, {str(out)!r}, or be left out, got {suffix[1:]}")
        return _unlike(Found([Job(paths[0], out)], [], []))
    if out.suffix and not out.is_dir() and single:
        raise UsageError(f"out: must be a folder or end in one of {', '.join(FORMATS)}, got {str(out)!r}")
    if out.exists() and not out.is_dir():
        raise UsageError(f"out: must be a folder for several photos, got the file {str(out)!r}")
    found = Found([], [], [])
    taken: set[str] = set()
    for path in paths:
        if path.is_dir():
            _walk(path, out, out / path.resolve().name if len(paths) > 1 else out, suffix, found, taken)
        else:
            _add(path, out / path.name, suffix, found, taken)
    return _unlike(found)


def _unlike(found: Found) -> Found:
    """The same; raises UsageError where a result would take the place of a photo."""
    photos = {_identity(job.photo) for job in found.jobs} - {None}
    for job in found.jobs:
        if _identity(job.out) in photos:
            raise UsageError(f"out: {str(job.out)!r} is the photo itself, or another of the photos")
    return found


def _identity(path: Path) -> tuple[int, int] | None:
    """What two names of one file have in common; None where there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _expanded(text: str) -> list[Path]:
    if not text.strip():
        raise UsageError("inputs: must be files, folders or patterns that exist, got an empty text")
    path = Path(text)
    if path.exists() or path.is_symlink():
        return [path]
    matches = sorted(glob.glob(text, recursive=True)) if glob.has_magic(text) else []
    if not matches:
        raise UsageError(f"inputs: must be files, folders or patterns that exist, got {text!r}")
    return [Path(match) for match in matches]


def _walk(folder: Path, out: Path, target: Path, suffix: str | None, found: Found, taken: set[str]) -> None:
    results = out.resolve()

    def failed(error: OSError) -> None:
        found.failures.append((Path(str(error.filename)), _reason(error)))

    for at, folders, files in os.walk(folder, onerror=failed):
        here = Path(at)
        for name in sorted(folders):
            if (here / name).is_symlink():
                found.failures.append((here / name, "a link to a folder, which is not followed"))
        folders[:] = sorted(name for name in folders if (here / name).resolve() != results)
        for name in sorted(files):
            if (here / name).is_symlink() and not _is_within(here / name, folder):
                found.failures.append((here / name, "a link out of the folder, which is not followed"))
                continue
            _add(here / name, target / (here / name).relative_to(folder), suffix, found, taken)


def _is_within(link: Path, folder: Path) -> bool:
    return Path(os.path.realpath(link)).is_relative_to(os.path.realpath(folder))  # Path.resolve raises for loops


def _add(path: Path, out: Path, suffix: str | None, found: Found, taken: set[str]) -> None:
    if path.name.startswith((".loupe-", "._")):  # what is half written; macOS's shadows of files
        return
    if path.exists() and not path.is_file():  # reading a pipe or a device would wait for ever
        found.others.append(path)
        return
    if path.suffix.lower() not in FORMATS:
        try:
            Image.open(path).close()
        except Exception:  # no image: decoders raise whatever a file leads them to
            found.others.append(path)
        else:
            found.failures.append((path, f"an image, but {path.suffix or 'no suffix'} is no suffix of one"))
        return
    wanted = out.with_suffix(suffix) if suffix else out
    name, number = wanted, 2
    while str(name).casefold() in taken:
        name = wanted.with_name(f"{wanted.stem}-{number}{wanted.suffix}")
        number += 1
    taken.add(str(name).casefold())
    found.jobs.append(Job(path, name))


def checked(path: Path, format_name: str) -> None:
    """Raise PhotoError where a file's suffix names another format than the one that it has."""
    told = FORMATS.get(path.suffix.lower())
    if told is not None and told != format_name:
        raise PhotoError(f"is {format_name}, though it ends in {path.suffix}; rename it")


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
