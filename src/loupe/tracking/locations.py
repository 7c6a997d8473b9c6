"""Converts between the paths of local files and their URIs; a path may contain `?`, `#` or `%`."""

import os
from pathlib import Path
from urllib.parse import quote, unquote

SQLITE = "sqlite:///"


def get_sqlite_file(uri: str) -> Path | None:
    """Return the file of an SQLite URI; None for other URIs, in-memory databases and `file:` databases."""
    scheme, _, path = uri.partition(":///")
    database = unquote(path.partition("?")[0], errors="surrogateescape")
    is_file = scheme.partition("+")[0] == "sqlite" and database and not database.startswith((":memory:", "file:"))
    return Path(database) if is_file else None


def make_sqlite_uri(file: Path) -> str:
    """Return the SQLite URI of a file.

    If the path must be encoded, its slashes are encoded too. With plain slashes, MLflow would create a wrong parent
    folder: `a%20b` for the folder `a b`.
    """
    return SQLITE + (str(file) if _is_plain(file) else quote(os.fsencode(file), safe=""))


def make_artifact_location() -> str:
    """Return the location of the folder `mlruns` in the current folder.

    MLflow decodes a path as if it were a URI. Therefore a path with special characters is returned as a URI.
    """
    folder = Path.cwd() / "mlruns"
    return str(folder) if _is_plain(folder) else folder.as_uri()


def _is_plain(path: Path) -> bool:
    """Return whether the path needs no percent-encoding in a URI."""
    return quote(os.fsencode(path)) == str(path)
