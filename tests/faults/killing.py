"""Kills steps at random moments, starts the same command again, and checks that nothing is lost.

    python tests/faults/killing.py                          # 50 kills of preprocess and upscale, 20 of the others
    python tests/faults/killing.py upscale --times 5 --seed 3

The program sends, in turn, SIGKILL or SIGTERM to the step's process, or SIGINT to its group, at a random moment
before the usual end of the step. A step that ends before the signal does not count. After up to MAX_KILLS_IN_A_ROW
kills, the command runs without a kill and must have the result of a command that was never killed.
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import psutil
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "steps"))
from jobs import Step, build_env, list_runs, loupe, open_store

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
MESSAGES = {signal.SIGTERM: "terminated", signal.SIGINT: "interrupted"}
EXIT_TIMEOUT_S = 30.0  # for all processes of a killed step
MAX_KILLS_IN_A_ROW = 5  # then the command runs without a kill
SWEEP = """
[study]
name = "killed"
direction = "minimize"
metric = "val/mae"
sampler = "grid"
repeats = 2
keep = 1
[train]
network = "perceptron"
hidden = "16,8"
loss = "mse"
batch_size = 16
steps = 200
eval_every = 50
[search]
activation = ["tanh", "relu"]
"""
TRAINING = ("--network", "perceptron", "--hidden", "24,16", "--steps", "300", "--eval-every", "50")


@dataclass(frozen=True)
class Case:
    """A step to kill.

    Args:
        command: arguments of the command line.
        prepare: creates the inputs in a new folder.
        result: reads the result, which must be the same with and without kills.
        parts: reads the parts of the result that are complete, also after a kill.
        clean: deletes the result.
    """

    command: list[str]
    prepare: Callable[[Path], None]
    result: Callable[[Path], Any]
    parts: Callable[[Path], Any] = field(default=lambda folder: {})
    clean: Callable[[Path], None] = field(default=lambda folder: None)


def create_photos(folder: Path, count: int = 24) -> None:
    """Write crops of real photos, in different sizes, to a folder."""
    import skimage

    rng = np.random.default_rng(0)
    names = ("chelsea.png", "coffee.png", "astronaut.png", "rocket.jpg")
    whole = [Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB") for name in names]
    for number in range(count):
        image = whole[number % len(whole)]
        side = int(rng.integers(60, 200))
        x, y = (int(rng.integers(edge - side)) for edge in image.size)
        file = folder / "photos" / f"{number % 3}" / f"{number:03d}{'.png' if number % 2 else '.jpg'}"
        file.parent.mkdir(parents=True, exist_ok=True)
        image.crop((x, y, x + side, y + side)).save(file)


def hash_files(folder: Path) -> dict[str, str]:
    """Return the hash of every file below a folder, without those whose names mark them as incomplete."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    names = {file.relative_to(folder).as_posix(): file for file in files}
    return {
        name: hashlib.sha256(file.read_bytes()).hexdigest()
        for name, file in names.items()
        if not any(part.startswith(".") for part in name.split("/"))
    }


def prepare_dataset(folder: Path) -> None:
    """Create a dataset with small labels."""
    create_photos(folder)
    loupe("preprocess", "--source", "photos", "--label-size", 60, "--crop", "centre", "--quiet", cwd=folder)
    next((folder / "data").iterdir()).rename(folder / "data" / "set")
    (folder / "killed.toml").write_text(SWEEP)


def prepare_training(folder: Path) -> None:
    """Create a dataset and finish one training on it."""
    prepare_dataset(folder)
    loupe("train", "--dataset", "set", "--network", "ridge", "--quiet", cwd=folder)


def read_training(folder: Path) -> Any:
    """Return metrics of the newest finished training."""
    ended = [
        run for run in list_runs(folder) if run.info.status == "FINISHED" and run.data.tags["loupe.step"] == "train"
    ]
    numbers = ended[0].data.metrics
    assert ended[0].outputs.model_outputs, "a finished run without a model"
    return {name: numbers[name] for name in ("val/best_mae", "test/mae", "training_steps")}


def read_sweep(folder: Path) -> Any:
    """Return point, seed and value of each completed trial."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import TrialState

    found = optuna.load_study(
        study_name="killed", storage=JournalStorage(JournalFileBackend(str(folder / "optuna.journal")))
    ).trials
    assert not [trial for trial in found if trial.state in (TrialState.RUNNING, TrialState.WAITING)]
    ended = [trial for trial in found if trial.state == TrialState.COMPLETE]
    runs = {run.info.run_id for run in list_runs(folder)}
    assert all(trial.user_attrs["run"] in runs for trial in ended)
    return sorted((trial.params["activation"], trial.params["seed"], trial.value) for trial in ended)


def read_registry(folder: Path) -> Any:
    """Return whether each registered model has a champion; all versions must have their model."""
    client, found = open_store(folder), {}
    for registered in client.search_registered_models():
        versions = client.search_model_versions(f"name = '{registered.name}'")
        assert versions, f"the registry has {registered.name} without a model"
        for version in versions:
            model = (
                client.get_logged_model(version.source.rpartition("/")[2]) if "models:/" in version.source else None
            )
            place = Path(model.artifact_location if model else version.source)
            assert (place / "MLmodel").exists(), f"{registered.name} {version.version} has no model"
        found[registered.name] = "champion" in registered.aliases
    return found


def clear_registry(folder: Path) -> None:
    """Delete all registered models."""
    client = open_store(folder)
    for registered in client.search_registered_models():
        client.delete_registered_model(registered.name)


def clear_study(folder: Path) -> None:
    """Delete the study; the runs stay, so that the sweep needs --fresh to train again."""
    (folder / "optuna.journal").unlink(missing_ok=True)


def create_store(folder: Path) -> None:
    """Create an empty store before the first kill."""
    open_store(folder).search_experiments()


CASES = {
    "preprocess": Case(
        ["preprocess", "--source", "photos", "--label-size", "48", "--crop", "random", "--quiet"],
        lambda folder: (create_photos(folder, 200), create_store(folder))[-1],
        lambda folder: hash_files(folder / "data"),
        lambda folder: hash_files(folder / "data"),
        lambda folder: shutil.rmtree(folder / "data", ignore_errors=True),
    ),
    "upscale": Case(
        ["upscale", "photos", "--out", "big", "--model", "tiny", "--resume", "--quiet"],
        lambda folder: create_photos(folder, 32),
        lambda folder: hash_files(folder / "big"),
        lambda folder: hash_files(folder / "big"),
        lambda folder: shutil.rmtree(folder / "big", ignore_errors=True),
    ),
    "train": Case(
        ["train", "--dataset", "set", *TRAINING, "--threads", "1", "--quiet"], prepare_dataset, read_training
    ),
    "sweep": Case(
        [
            "sweep",
            "killed.toml",
            "--dataset",
            "set",
            "--workers",
            "2",
            "--no-register-best",
            "--fresh",
            "--quiet",
        ],
        prepare_dataset,
        read_sweep,
        clean=clear_study,
    ),
    "register": Case(["register", "--quiet"], prepare_training, read_registry, clean=clear_registry),
}
WITH_TENSORFLOW = ("train", "sweep", "register")  # their import takes most of the time in which a kill can come
TIMES = {"preprocess": 50, "upscale": 50, "train": 20, "sweep": 20, "register": 20}


class StepKiller:
    """Kills one step in one folder.

    Args:
        step: a key of CASES.
        folder: an empty folder.
        seed: the seed of the random moments.
    """

    def __init__(self, step: str, folder: Path, seed: int = 0) -> None:
        self.step, self.case, self.folder = step, CASES[step], folder
        self.rng = random.Random(seed)
        self.kills: Counter[str] = Counter()
        self.case.prepare(folder)
        started = time.monotonic()
        loupe(*self.case.command, cwd=folder)
        self.seconds = time.monotonic() - started
        self.expected = self.case.result(folder)
        self.whole = self.case.parts(folder)
        self.case.clean(folder)

    def kill_once(self, number: signal.Signals) -> bool:
        """Start the command, kill it, and check the files; returns False if it ended before the kill."""
        with tempfile.NamedTemporaryFile("w+") as output:
            process = self._start(output)
            try:
                killed = self._kill_at_random(process, number)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
            output.seek(0)
            lines = output.read().splitlines()
            if process.returncode == 128 + number:
                last = f"loupe {self.step}: error: {MESSAGES[number]}"
                assert lines[-1:] == [last], f"printed after {number.name}: {lines}"
                assert not any("Traceback" in line for line in lines), f"printed after {number.name}: {lines}"
        return killed

    def _start(self, output: IO[str]) -> "subprocess.Popen[bytes] | Step":
        if self.step in WITH_TENSORFLOW:
            return Step(*self.case.command, cwd=self.folder, output=(output.name, output.name))
        return subprocess.Popen(
            [sys.executable, "-m", "loupe", *self.case.command],
            cwd=self.folder, env=build_env(), start_new_session=True, stdout=output, stderr=output,
        )  # fmt: skip

    def _kill_at_random(self, process: "subprocess.Popen[bytes] | Step", number: signal.Signals) -> bool:
        until = time.monotonic() + self.rng.uniform(0.0, self.seconds)
        below: set[psutil.Process] = set()
        while time.monotonic() < until and process.poll() is None:
            below |= set(psutil.Process(process.pid).children(recursive=True)) if process.poll() is None else set()
            time.sleep(0.05)
        if process.poll() is not None:
            self.compare()
            return False
        self.kills[number.name] += 1
        os.killpg(process.pid, number) if number == signal.SIGINT else os.kill(process.pid, number)
        process.wait(EXIT_TIMEOUT_S)
        _, left = psutil.wait_procs(below, timeout=EXIT_TIMEOUT_S)
        left = [other for other in left if other.is_running() and other.status() != psutil.STATUS_ZOMBIE]
        assert not left, f"still running after {number.name}: {[other.cmdline() for other in left]}"
        for name, content in self.case.parts(self.folder).items():
            assert self.whole.get(name) == content, f"{name} is not complete after {number.name}"
        return True

    def run_undisturbed(self) -> None:
        """Run the command without a kill and compare the result."""
        loupe(*self.case.command, cwd=self.folder)
        self.compare()

    def compare(self) -> None:
        """Check that the result is the same as without kills, then delete it."""
        found = self.case.result(self.folder)
        assert found == self.expected, f"{self.step}: got {found}, without a kill {self.expected}"
        left = [str(path) for path in self.folder.rglob(".*") if ".part" in path.name or path.name.count(".") > 2]
        assert not left, f"incomplete files are left: {left}"
        if (self.folder / "mlflow.db").exists():
            running = [run.info.run_name for run in list_runs(self.folder) if run.info.status == "RUNNING"]
            assert not running, f"still RUNNING: {running}"
        self.case.clean(self.folder)


def kill(step: str, times: int, folder: Path, seed: int = 0) -> Counter[str]:
    """Kill a step `times` times; returns the number per signal. Raises AssertionError if something is lost."""
    killer = StepKiller(step, folder, seed)
    kills_left = killer.rng.randint(1, MAX_KILLS_IN_A_ROW)
    while (killed := killer.kills.total()) < times:
        if not killer.kill_once(SIGNALS[killed % len(SIGNALS)]):
            continue
        kills_left -= 1
        if not kills_left or killed == times - 1:
            killer.run_undisturbed()
            kills_left = killer.rng.randint(1, MAX_KILLS_IN_A_ROW)
    return killer.kills


def main() -> int:
    """Kill the named steps, or all; returns 1 if something is lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", default=list(CASES), choices=[*CASES])
    parser.add_argument("--times", type=int)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell disables it for background jobs
    lost = 0
    for step in given.steps:
        times, started = given.times or TIMES[step], time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = str(dict(kill(step, times, Path(folder), given.seed)))
            except AssertionError as error:
                lost, found = lost + 1, f"LOST: {error}"
        print(f"{step:<11} killed {times:>3} times, {time.monotonic() - started:.0f} s: {found}", flush=True)
    return min(lost, 1)


if __name__ == "__main__":
    sys.exit(main())
