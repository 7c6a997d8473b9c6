"""Fixtures for hostile input: a working folder whose surroundings are checked, and commands that must be refuse."""

import hashlib
import io
import os
import re

import pytest
from jobs import is_harmless, loupe
from PIL import Image

from loupe.data.sources import find_bundled_photo


def read_state(folder):
    """Return the hash, link target or file type of every path below a folder."""
    found = {}
    for parent, folders, names in os.walk(os.fsencode(folder)):
        for name in (*folders, *names):
            path = os.path.join(parent, name)
            if os.path.islink(path):
                found[path] = os.readlink(path)
            elif os.path.isfile(path):
                with open(path, "rb") as stream:
                    found[path] = hashlib.sha256(stream.read()).hexdigest()
            else:
                found[path] = "folder" if os.path.isdir(path) else "other"
    return found


@pytest.fixture
def surroundings(tmp_path):
    """A folder next to `work` whose files no command may read or change."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret.txt").write_text("secret")
    Image.new("RGB", (40, 40), "red").save(folder / "secret.png")
    return folder


@pytest.fixture
def work(tmp_path, surroundings):
    """The folder in which commands run; everything outside it must stay the same."""
    folder = tmp_path / "work"
    folder.mkdir()
    before = {path: state for path, state in read_state(tmp_path).items() if not path.startswith(os.fsencode(folder))}
    yield folder
    after = {path: state for path, state in read_state(tmp_path).items() if not path.startswith(os.fsencode(folder))}
    assert after == before


@pytest.fixture
def refuse(work):
    """A function that runs a command and checks that it fails with one line and creates no file."""

    def run(*arguments, status=2, changes=False, **more):
        before = read_state(work)
        done = loupe(*arguments, cwd=work, status=status, **more)
        assert re.fullmatch(r"loupe \w+: error: [^\n]+\n", done.stderr), done.stderr
        assert is_harmless(done.stderr)
        if not changes:
            assert done.stdout == ""
            assert read_state(work) == before
        return done.stderr

    return run


@pytest.fixture(scope="session")
def photo():
    """The bytes of a small real photo, as PNG."""
    stream = io.BytesIO()
    with Image.open(find_bundled_photo()) as image:
        image.crop((130, 60, 194, 108)).save(stream, "PNG")
    return stream.getvalue()
