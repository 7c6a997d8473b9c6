"""What tests of hostile input share: the command, held against what it may print, and a place to look around it."""

import hashlib
import io
import os
import re

import pytest
from jobs import is_harmless, loupe
from PIL import Image

from loupe.data.sources import find_bundled_photo


def state_of(folder):
    """All below a folder: names, kinds, targets of links, contents."""
    found = {}
    for at, folders, names in os.walk(os.fsencode(folder)):
        for name in (*folders, *names):
            path = os.path.join(at, name)
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
    """A folder with a secret, which nobody may write to or read from, beside `work`, in which commands run."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret.txt").write_text("secret")
    Image.new("RGB", (40, 40), "red").save(folder / "secret.png")
    return folder


@pytest.fixture
def work(tmp_path, surroundings):
    """The folder in which commands run; what lies outside of it is the same afterwards."""
    folder = tmp_path / "work"
    folder.mkdir()
    before = {path: of for path, of in state_of(tmp_path).items() if not path.startswith(os.fsencode(folder))}
    yield folder
    after = {path: of for path, of in state_of(tmp_path).items() if not path.startswith(os.fsencode(folder))}
    assert after == before


@pytest.fixture
def refused(work):
    """Runs a command that must be refused: in one line, with this status, and with no store or file made."""

    def run(*arguments, status=2, changes=False, **more):
        before = state_of(work)
        done = loupe(*arguments, cwd=work, status=status, **more)
        assert re.fullmatch(r"loupe \w+: error: [^\n]+\n", done.stderr), done.stderr
        assert is_harmless(done.stderr)
        if not changes:
            assert done.stdout == ""
            assert state_of(work) == before
        return done.stderr

    return run


@pytest.fixture(scope="session")
def photo():
    """The bytes of a small real photo, as PNG."""
    stream = io.BytesIO()
    with Image.open(find_bundled_photo()) as image:
        image.crop((130, 60, 194, 108)).save(stream, "PNG")
    return stream.getvalue()
