"""Measures the peak memory of a command or of a running server, with all child processes.

`measure_command` runs this file as a program: a small process that starts the command, because the peak that the
kernel reports for a process includes the memory of its parent at the start.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

INTERVAL_S = 0.02
KILL_MB = 6000  # no test takes down the machine


@dataclass(frozen=True)
class Measured:
    """A finished command.

    Args:
        status: the exit status; negative after a signal.
        stdout: its output.
        stderr: its errors.
        seconds: the run time.
        peak_mb: the largest resident memory of the process and its child processes together, in MB (10**6 bytes).
        killed: why the command was killed, `memory` or `time`; "" if it was not.
    """

    status: int
    stdout: str
    stderr: str
    seconds: float
    peak_mb: float
    killed: str


def measure_command(command, cwd, env, timeout_s=120, kill_mb=KILL_MB):
    """Run a command and measure it.

    Args:
        command: the program and its arguments.
        cwd: its working directory.
        env: its environment, as `jobs.build_env` returns it.
        timeout_s: the command is killed after this time.
        kill_mb: the command is killed when it takes more memory than this.

    Returns:
        A `Measured`.
    """
    with tempfile.TemporaryDirectory() as folder:
        request = Path(folder, "request.json")
        request.write_text(json.dumps([[str(word) for word in command], str(cwd), env, timeout_s, kill_mb]))
        subprocess.run([sys.executable, __file__, folder], check=True)
        printed = [Path(folder, name).read_text(errors="surrogateescape") for name in ("stdout", "stderr")]
        status, *facts = json.loads(Path(folder, "result.json").read_text())
    return Measured(status, *printed, *facts)


class MemoryWatch:
    """Watches the memory of a running process and its child processes, such as a server.

    Use it as a context manager. `peak_mb` is the largest resident memory inside the block, all processes together.

    Args:
        pid: the process.
        kill_mb: the processes are killed when they take more memory than this.
    """

    def __init__(self, pid, kill_mb=KILL_MB):
        self.peak_mb, self.killed = 0.0, ""
        self._pid, self._kill_mb = pid, kill_mb
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self):
        with contextlib.suppress(OSError):  # the process has ended, or not Linux
            Path(f"/proc/{self._pid}/clear_refs").write_text("5")  # resets VmHWM
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        self._sample()
        self.peak_mb = max(self.peak_mb, read_high_water_mark_mb(self._pid))  # samples can miss a short peak

    def kill(self, reason):
        """Kill the processes."""
        self.killed = reason
        for process in list_tree(self._pid):
            process.kill()

    def _watch(self):
        while not self._stop.wait(INTERVAL_S):
            self._sample()
            if self.peak_mb > self._kill_mb and not self.killed:
                self.kill("memory")

    def _sample(self):
        self.peak_mb = max(self.peak_mb, sum(map(read_resident_mb, list_tree(self._pid))))


def list_tree(pid):
    """Return a process and its child processes; an empty list if it has ended.

    Linux lists the children of a thread. psutil reads all processes of the machine, which takes a third of a core at
    this interval.
    """
    try:
        process = psutil.Process(pid)
        if not Path(f"/proc/self/task/{threading.get_native_id()}/children").exists():
            return [process, *process.children(recursive=True)]
        threads = os.listdir(f"/proc/{pid}/task")
    except (psutil.NoSuchProcess, OSError):
        return []
    found = [process]
    for thread in threads:
        with contextlib.suppress(OSError):  # the thread has ended
            for child in Path(f"/proc/{pid}/task/{thread}/children").read_text().split():
                found += list_tree(int(child))
    return found


def read_resident_mb(process):
    """Return the resident memory of a process; 0 if it has ended."""
    try:
        return process.memory_info().rss / 1e6
    except psutil.NoSuchProcess:
        return 0.0


def read_high_water_mark_mb(pid):
    """Return the peak of a process since `clear_refs` was written; 0 if it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def main(folder):
    """Run the command of a request and write what `Measured` needs."""
    import resource

    command, cwd, env, timeout_s, kill_mb = json.loads((folder / "request.json").read_text())
    with (folder / "stdout").open("wb") as stdout, (folder / "stderr").open("wb") as stderr:
        started = time.monotonic()
        process = subprocess.Popen(command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
        with MemoryWatch(process.pid, kill_mb) as watch:
            try:
                status = process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                watch.kill("time")
                status = process.wait()
        seconds = time.monotonic() - started
    # samples can miss a short peak; the kernel's number cannot, but is that of the largest single process
    largest_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    facts = [status, seconds, max(watch.peak_mb, largest_mb / 1e6), watch.killed]
    (folder / "result.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
