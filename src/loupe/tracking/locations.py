"""Converts between the paths of local files and their URIs; the name of a folder may contain `?`, `#` or `%`."""

import os
from pathlib import Path
from urllib.parse import quote, unquote

SQLITE = "sqlite:///"


def get_sqlite_file(uri: str) -> Path | None:
    """Return the file of an SQLite URI of MLflow; None for another store and for a database in memory."""
    scheme, _, path = uri.partition(":///")
    database = unquote(path.partition("?")[0], errors="surrogateescape")
    is_file = scheme.partition("+")[0] == "sqlite" and database and not database.startswith((":memory:", "file:"))
    return Path(database) if is_file else None


def make_sqlite_uri(file: Path) -> str:
    """Return the SQLite URI of a file.

    MLflow creates the parent folder of the database without decoding the URI. For the folder `a b`, MLflow would
    create a folder `a%20b`. Therefore the slashes are encoded too: then MLflow finds no parent folder to
    create.
    """
    return SQLITE + (str(file) if _is_plain(file) else quote(os.fsencode(file), safe=""))


def make_artifact_location(folder: Path) -> str:
    """Return the location of a folder of artifacts for MLflow.

    MLflow decodes a path as if the path were a URI, and copies the path to an SQL statement. Therefore MLflow gets a
    file URI if the name of the folder has special characters.
    """
    return str(folder) if _is_plain(folder) else folder.as_uri()


def _is_plain(path: Path) -> bool:
    """Return whether the path is the same in a URI."""
    return quote(os.fsencode(path)) == str(path)
