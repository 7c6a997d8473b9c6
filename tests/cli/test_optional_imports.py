"""TensorFlow and Keras are imported without libraries that only their unused features need."""

import os
import subprocess
import sys

import pytest

SKIPPED = ("sklearn", "pandas", "matplotlib", "jax")
# A package that has a submodule, and imports each library that it finds, as TensorFlow and Keras do.
IMPORTER = f"""
import importlib, threading
{{more}}
def find():
    for name in {SKIPPED}:
        try:
            found.append(importlib.import_module(name).__name__)
        except ModuleNotFoundError as error:
            assert error.name == name
found = []
find()
"""
OTHER_THREAD = "o = threading.Thread(target=importlib.import_module, args=['pandas']); o.start(); o.join()"
PROGRAM = f"""
import importlib, sys
from loupe.cli.startup import prepare_process
prepare_process()
import keras
print(keras.found)
print([name for name in {SKIPPED} if name in sys.modules])
print([importlib.import_module(name).__name__ for name in {SKIPPED}])
"""


@pytest.fixture
def import_keras(tmp_path):
    """Return a function that imports small packages in the place of Keras and the other libraries."""

    def run(keras="", tensorflow=""):
        texts = {"keras": IMPORTER.format(more=keras), "tensorflow": IMPORTER.format(more=tensorflow)}
        for name, text in (texts | dict.fromkeys(SKIPPED, "")).items():
            (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        path = os.pathsep.join([str(tmp_path), *sys.path])
        program = [sys.executable, "-c", PROGRAM]
        environment = os.environ | {"PYTHONPATH": path}
        done = subprocess.run(program, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
        assert (done.stderr, done.returncode) == ("", 0)
        return done.stdout.splitlines()

    return run


def test_keras_with_tensorflow_imports_no_optional_library_and_loupe_can_import_all(import_keras):
    assert import_keras("import tensorflow; assert not tensorflow.found") == ["[]", "[]", str(list(SKIPPED))]


def test_messages_of_tensorflow_are_filtered(import_keras):
    message = rb"I0000 00:00:1795843437.98 30949 port.cc:153] oneDNN custom operations are on.\n"
    assert import_keras("import tensorflow", f"import os; os.write(2, {message})")[0] == "[]"


def test_another_thread_can_import_a_library_at_the_same_time(import_keras):
    assert import_keras(f"import tensorflow; {OTHER_THREAD}")[1] == "['pandas']"


def test_keras_without_tensorflow_imports_what_it_finds(import_keras):
    assert import_keras()[0] == str(list(SKIPPED))
