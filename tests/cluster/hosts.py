"""Simulates several hosts on one machine by network namespaces with host names of their own.

A namespace needs root and the command `ip` of iproute2. Without them all hosts are this machine, and differ only by
their folders.
"""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import psutil
import services

NETWORK = "10.213.{}.{}"  # with the process id modulo 250, so that several test processes can run
NAMED = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"']


@dataclass
class Host:
    """A host: its name, its address, and the command that runs another command on it."""

    name: str
    address: str = services.LOOPBACK
    within: list[str] = field(default_factory=list)


@contextmanager
def create_hosts(count: int) -> Iterator[list[Host]]:
    """Create `count` hosts on a bridge; the first is the host of this process. Without `ip`, all are on loopback."""
    names = [f"loupe{os.getpid()}-{number}" for number in range(count)]
    number = os.getpid() % 250
    bridge = f"loupe{number}"
    with ExitStack() as stack:
        if not _try("link", "add", bridge, "type", "bridge"):
            yield [Host(name) for name in names]
            return
        stack.callback(_try, "link", "del", bridge)
        _run("addr", "add", f"{NETWORK.format(number, 1)}/24", "dev", bridge)
        _run("link", "set", bridge, "up")
        made = [Host(names[0], NETWORK.format(number, 1))]
        for position, name in enumerate(names[1:], 2):
            address = NETWORK.format(number, position)
            outer, inner = f"lo{number}h{position}", f"lo{number}p{position}"
            _run("netns", "add", name)
            stack.callback(_try, "netns", "del", name)
            _run("link", "add", outer, "type", "veth", "peer", "name", inner)
            _run("link", "set", inner, "netns", name)
            _run("link", "set", outer, "master", bridge, "up")
            for command in (["addr", "add", f"{address}/24", "dev", inner], ["link", "set", inner, "up"],
                            ["link", "set", "lo", "up"]):  # fmt: skip
                _run("-n", name, *command)
            made.append(Host(name, address, ["ip", "netns", "exec", name, *NAMED, name]))
        yield made


def _run(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"


def _try(*words: str) -> bool:
    try:
        return subprocess.run(["ip", *words], capture_output=True).returncode == 0
    except OSError:
        return False


def cut_power(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its process group, as a power failure of its host does."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def list_trial_processes(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Return the processes that a Dask worker started for trials."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if "loupe.search.worker" in child.cmdline():
                found.append(child)
        except psutil.Error:
            continue
    return found
