"""The hash of the training code, trials that fail, and trials with initial weights."""

import ast
import shutil
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from mlflow.protos.service_pb2 import GetMetricHistory
from mlflow.utils.proto_json_utils import parse_dict
from optuna.trial import TrialState

import loupe
from loupe.config import parse_settings
from loupe.search import training_code, trial
from loupe.search.study import SweepStudy
from loupe.search.sweep_file import SweepFile
from loupe.search.training_code import TRAINING_CODE, hash_training_code
from loupe.search.trial_attributes import ITEM, REASON, RESUMED_RUN, RUN
from loupe.steps import train
from loupe.tracking import delivery, models, server, trials
from loupe.training import variant
from loupe.upscalers import ridge

PACKAGE = Path(loupe.__file__).parent
SWEEP = {
    "study": {"name": "made-up", "metric": "val/mae", "sampler": "grid"},
    "search": {"activation": ["tanh", "relu"]},
}
# Modules that the training code imports, but that do not change the trained weights. The key of a trial contains the
# values of all settings. The hash contains the results of `fields.get_block_sides`.
OTHER_MODULES = {
    "cli/progress.py", "config/base.py", "config/fields.py", "config/networks.py", "config/training.py",
    "data/manifest_check.py", "data/shards.py", "data/storage.py", "errors.py", "imaging/atomic.py",
    "imaging/child_process.py", "imaging/limits.py", "upscalers/non_local_means.py", "upscalers/onnx.py",
}  # fmt: skip
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


def list_imports(file):
    """Return the files of Loupe's modules that a file imports, also inside functions, relative to the package."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    files = {Path(*name.split(".")[1:]).with_suffix(".py") for name in names if name.startswith("loupe.")}
    return {file.as_posix() for file in files if (PACKAGE / file).is_file()}


def test_every_module_that_the_training_code_imports_is_hashed_or_does_not_change_weights():
    paths = [PACKAGE / name for name in TRAINING_CODE]
    files = {file for path in paths for file in (path.glob("*.py") if path.is_dir() else [path])}
    hashed = {file.relative_to(PACKAGE).as_posix() for file in files}
    assert set().union(*map(list_imports, files)) - hashed == OTHER_MODULES


def test_block_sides_change_the_hash(package, monkeypatch):
    before = hash_of(package)
    monkeypatch.setattr(training_code, "get_block_sides", lambda scale: (4, 4))
    assert hash_of(package) != before


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


def test_a_complete_training_whose_records_are_buffered_at_its_end_is_tried_again(tmp_path, monkeypatch):
    def train_network(context):
        context.trial.set_user_attr(RUN, "1")
        raise delivery.UnsentRecordsError("the server is unreachable; run 1 is buffered")

    study = SweepStudy(SweepFile.model_validate(SWEEP), optuna.storages.InMemoryStorage(), "digest", "parent")
    study.enqueue_missing(1)
    monkeypatch.setattr(trial, "_train", train_network)
    job = SimpleNamespace(fresh=True, digest="digest", parent="parent", data_dir=str(tmp_path), threads=1)
    trial.run_trial(study.claim_trial({}), study, job)
    study.enqueue_missing(1)
    orphan, next_trial = study.optuna_study.trials
    assert study.to_frame()["state"].tolist() == ["ORPHANED", "WAITING"]
    assert orphan.user_attrs[REASON] == "the server is unreachable; run 1 is buffered"
    assert next_trial.user_attrs[ITEM] == orphan.user_attrs[ITEM]
    assert next_trial.user_attrs[RESUMED_RUN] == "1"


def claim_trial(settings):
    """Return the context of a trial that continues the run `1`."""
    study = SweepStudy(SweepFile.model_validate(SWEEP), optuna.storages.InMemoryStorage(), "digest", "parent")
    study.enqueue_missing(1)
    claimed = study.claim_trial({})
    claimed.set_user_attr(RESUMED_RUN, "1")
    claimed.suggest_categorical("activation", ["tanh", "relu"])
    job = SimpleNamespace(fresh=False, digest="digest", parent="parent")
    return trial.TrialContext(claimed, study, job, parse_settings("train", settings))


@pytest.mark.parametrize(
    ("settings", "is_reused"),
    [({}, True), ({"network": "ridge"}, True), ({"initial_weights": "champion"}, False)],
    ids=["none", "ridge", "champion"],
)
def test_a_trial_with_initial_weights_reuses_no_result_because_these_weights_can_change(
    settings, is_reused, monkeypatch
):
    monkeypatch.setattr(trials, "get_ended_run", lambda run_id: None)
    monkeypatch.setattr(trials, "find_finished_run", lambda key: "finished run")
    assert (trial._find_result(claim_trial(settings)) is not None) == is_reused


class BuiltError(Exception):
    """The network is built."""


@pytest.mark.parametrize("step", ["train", "trial"])
def test_a_resumed_training_does_not_need_the_initial_weights(step, monkeypatch):
    def build_network(*given):
        raise BuiltError(given[-1])

    def find_deleted_model(name):
        raise AssertionError(name)

    dataset = SimpleNamespace(load_pairs=lambda *given: None, settings={"luminance": "rec601"})
    checkpoint = {"weights/0": 1}
    monkeypatch.setattr(models, "find_model", find_deleted_model)
    monkeypatch.setattr(ridge, "load_or_fit", lambda *given: None)
    for module in (trial, variant):
        monkeypatch.setattr(module, "build_network", build_network)
    monkeypatch.setattr(trial, "open_dataset", lambda job: dataset)
    monkeypatch.setattr(trials, "load_checkpoint", lambda run_id: checkpoint)
    monkeypatch.setattr(trials, "open_trial_run", lambda *given: nullcontext("2"))
    monkeypatch.setattr(train, "_open_dataset", lambda settings: (dataset, checkpoint))
    monkeypatch.setattr(train, "load_resumed_settings", lambda settings: settings)
    settings = {"initial_weights": "deleted.keras", "resume": "1"}
    with pytest.raises(BuiltError, match=r"^None$"):
        trial._train(claim_trial(settings)) if step == "trial" else train.run(parse_settings("train", settings))
