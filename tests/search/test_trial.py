"""The hash of the training code, which ignores prose, and trials that fail."""

import shutil
from pathlib import Path

import optuna
import pytest
from mlflow.protos.service_pb2 import GetMetricHistory
from mlflow.utils.proto_json_utils import parse_dict
from optuna.trial import TrialState

import loupe
from loupe.search import trial
from loupe.search.study import SweepStudy
from loupe.search.sweep_file import SweepFile
from loupe.search.training_code import TRAINING_CODE, hash_training_code
from loupe.search.trial_attributes import REASON
from loupe.tracking import server

PACKAGE = Path(loupe.__file__).parent
SWEEP = {
    "study": {"name": "made-up", "metric": "val/mae", "sampler": "grid"},
    "search": {"activation": ["tanh", "relu"]},
}
CODE = '''"""A module."""


class Loop:
    """A class."""

    def run(self):
        """A method."""
        return 1  # a comment
'''


@pytest.fixture
def package(tmp_path):
    """A copy of the training code with one more file; its last line has a comment and a number."""
    for name in TRAINING_CODE:
        source = PACKAGE / name
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    (tmp_path / "training" / "made_up.py").write_text(CODE)
    return tmp_path


def hash_of(package):
    return hash_training_code.__wrapped__(package)


def test_training_code_exists_and_includes_batches_and_training_loop():
    assert all((PACKAGE / name).exists() for name in TRAINING_CODE)
    assert all(list((PACKAGE / name).glob("*.py")) for name in TRAINING_CODE if (PACKAGE / name).is_dir())
    assert {"data/dataset.py", "training"} <= set(TRAINING_CODE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("A module.", "Another module."),
        ('    """A class."""\n', ""),
        ('"""A method."""', '"""Another method.\n\n        It has more lines.\n        """'),
        ("  # a comment", "  # another comment"),
        ("return 1", "return (1)"),
    ],
    ids=["module", "class", "method", "comment", "format"],
)
def test_prose_does_not_change_the_hash(old, new, package):
    before = hash_of(package)
    assert old in CODE
    (package / "training" / "made_up.py").write_text(CODE.replace(old, new))
    assert hash_of(package) == before


@pytest.mark.parametrize("name", TRAINING_CODE)
def test_a_number_in_any_training_file_changes_the_hash(name, package):
    before = hash_of(package)
    path = package / name
    for file in path.glob("*.py") if path.is_dir() else [path]:
        text = file.read_text()
        file.write_text(text + "\nNUMBER = 1\n")
        first = hash_of(package)
        file.write_text(text + "\nNUMBER = 2\n")
        assert len({before, first, hash_of(package)}) == 3
        file.write_text(text)
    assert hash_of(package) == before


def test_missing_training_file_is_an_error(package):
    (package / "data" / "dataset.py").unlink()
    with pytest.raises(FileNotFoundError):
        hash_of(package)


def test_a_wrong_answer_of_the_tracking_server_fails_the_trial_and_not_the_worker(monkeypatch):
    def read(*given):
        parse_dict({"metrics": 3}, GetMetricHistory.Response())

    study = SweepStudy(SweepFile.model_validate(SWEEP), optuna.storages.InMemoryStorage(), "digest", "parent")
    study.enqueue_missing(1)
    monkeypatch.setattr(server, "is_server", lambda: True)
    monkeypatch.setattr(trial, "suggest_params", read)
    trial.run_trial(study.claim_trial({}), study, None)
    (failed,) = study.optuna_study.trials
    assert failed.state == TrialState.FAIL
    assert "cannot be used: Failed to parse metrics field" in failed.user_attrs[REASON]
    monkeypatch.setattr(trial, "suggest_params", lambda *given: 1 / 0)
    study.enqueue_missing(1)
    with pytest.raises(ZeroDivisionError):
        trial.run_trial(study.claim_trial({}), study, None)
