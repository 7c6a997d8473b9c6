"""Creates each new MLflow store as a copy of the first one, because MLflow's migrations take a second."""

import functools
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path


@functools.cache
def copy_new_stores():
    """Replace `loupe.tracking.store._create` in this process and its forks; returns the original function.

    Only the location of artifacts differs between new stores.
    """
    from mlflow.utils.uri import append_to_uri_path

    from loupe.tracking import store

    create, folder = store._create, tempfile.TemporaryDirectory()
    template = Path(folder.name, "mlflow.db")

    def copy_or_create(file):
        if template.exists():
            partial = shutil.copy(template, f"{file}.copy")
            location = append_to_uri_path(store.make_artifact_location(), "0")
            with closing(sqlite3.connect(partial)) as database:
                database.execute("UPDATE experiments SET artifact_location = ?", [location])
                database.commit()
            Path(partial).replace(file)
        else:
            create(file)
            with tempfile.NamedTemporaryFile(dir=folder.name, delete=False) as partial:
                partial.write(file.read_bytes())
            Path(partial.name).replace(template)

    store._create = copy_or_create
    return create
