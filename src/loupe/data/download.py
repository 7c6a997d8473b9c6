"""Turns an address into a whole, checked file: with progress, resumed where it broke off."""

import hashlib
import time
from pathlib import Path

from loupe.cli.progress import ProgressBar
from loupe.errors import LoupeError

CHUNK = 1 << 20
TRIES = 8  # connections without a new byte before a download fails
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0  # before a further connection; the pause doubles each time


def download(target: Path, url: str, md5: str, size: int, quiet: bool = False) -> Path:
    """Fetch `url` into `target`; a file that is there already is kept.

    What has arrived stays in `target` + `.part` and is continued by a range request, in this call or
    the next one. The file gets its name only once its md5 is right.

    Args:
        target: the file to make; its folder is made too.
        url: http or https.
        md5: in hexadecimal, of the whole file.
        size: in bytes, of the whole file.
        quiet: show no progress.

    Raises:
        LoupeError: the server does not answer, or what it sent is not the file.
    """
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    failed = 0
    with ProgressBar(f"downloading {target.name}", size, quiet, unit="bytes") as bar:
        while (there := part.stat().st_size if part.exists() else 0) < size:
            reason = _fetch(url, part, there, bar)
            if part.exists() and part.stat().st_size > there:
                failed = 0
                continue
            failed += 1
            if failed >= TRIES:
                raise LoupeError(f"download of {url} stopped at {there} of {size} bytes: {reason}")
            time.sleep(min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (failed - 1)))
    with part.open("rb") as stream:
        found = hashlib.file_digest(stream, "md5").hexdigest()
    if found != md5:
        part.unlink()
        raise LoupeError(f"download of {url}: md5 must be {md5}, got {found}; the file was thrown away")
    part.rename(target)
    return target


def _fetch(url: str, part: Path, there: int, bar: ProgressBar) -> str:
    """Append to `part` what the server sends from byte `there` on; returns why it ended early, or ""."""
    import requests
    import urllib3

    try:
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={there}-"} if there else {})
        with requests.get(url, headers=headers, stream=True, timeout=30) as answer:
            answer.raise_for_status()
            resumed = answer.status_code == requests.codes.partial_content
            done = there if resumed else 0
            with part.open("ab" if resumed else "wb") as stream:
                while chunk := answer.raw.read1(CHUNK):  # what has come; iter_content would wait for it all
                    stream.write(chunk)
                    done += len(chunk)
                    bar.update(done)
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        return str(error)
    return ""
