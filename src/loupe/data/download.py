"""Downloads a file of known size and checksum, and resumes an interrupted download."""

import hashlib
import time
from pathlib import Path

from loupe.cli.progress import ProgressBar
from loupe.errors import LoupeError
from loupe.imaging.atomic import publish
from loupe.imaging.file_locks import lock_file

CHUNK_BYTES = 1 << 20
MAX_TRIES = 8  # consecutive connections that do not make the partial file longer
FIRST_PAUSE_S, MAX_PAUSE_S = 1.0, 30.0  # between two tries; the pause doubles after each failure


def download(target: Path, url: str, md5: str, size: int, quiet: bool = False) -> Path:
    """Download `url` to `target`, unless `target` exists; return `target`.

    An interrupted download is kept as `target` + `.part`, and the next call continues it with a range request. The
    folder of `target` is created. `size` is in bytes. If another process downloads the file, wait until that download
    has ended.

    Raises:
        LoupeError: MAX_TRIES consecutive tries do not make the partial file longer, or the file has another checksum.
    """
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with lock_file(target.with_name(f"{target.name}.lock")):
        if not target.exists():
            _download(target, url, md5, size, quiet)
    return target


def _download(target: Path, url: str, md5: str, size: int, quiet: bool) -> None:
    part = target.with_name(target.name + ".part")
    failures = 0
    with ProgressBar(f"downloading {target.name}", size, quiet, unit="bytes") as bar:
        while (received := _get_size(part)) < size:
            reason = _append(url, part, received, bar)
            failures = 0 if _get_size(part) > received else failures + 1
            if failures >= MAX_TRIES:
                reason = reason or "the server sent no further data"
                raise LoupeError(f"download of {url} stopped at {received} of {size} bytes: {reason}")
            if failures:
                time.sleep(min(MAX_PAUSE_S, FIRST_PAUSE_S * 2 ** (failures - 1)))
    with part.open("rb") as stream:
        checksum = hashlib.file_digest(stream, "md5").hexdigest()
    if checksum != md5:
        part.unlink()
        raise LoupeError(f"download of {url}: md5 must be {md5}, got {checksum}; the file was deleted")
    publish(part, target)


def _get_size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _append(url: str, part: Path, received: int, bar: ProgressBar) -> str:
    """Append the remaining bytes of `url` to `part`; return the text of an error, or "".

    If the server ignores the requested range, replace the content of `part` by all bytes of `url`.
    """
    import requests
    import urllib3

    try:
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={received}-"} if received else {})
        with requests.get(url, headers=headers, stream=True, timeout=30) as response:
            response.raise_for_status()
            resumed = response.status_code == requests.codes.partial_content
            size = received if resumed else 0
            with part.open("ab" if resumed else "wb") as stream:
                while chunk := response.raw.read1(CHUNK_BYTES):  # iter_content would wait for whole chunks
                    stream.write(chunk)
                    size += len(chunk)
                    bar.update(size)
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        return str(error)
    return ""
