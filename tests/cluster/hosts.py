"""Several hosts on one machine: network namespaces with names of their own, or processes on loopback.

A namespace needs root and `ip` of iproute2. Where one cannot be made, hosts differ by their folders alone.
"""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import psutil
import services

NETWORK = "10.213.{}.{}"  # of the processes' own number modulo 250, so that two of them can run at once
NAMED = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"']


@dataclass
class Host:
    """Where a process can be started: its address, and the words before its command."""

    name: str
    address: str = services.LOOPBACK
    within: list[str] = field(default_factory=list)


@contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """So many hosts, the first of which is this process's own: namespaces around a bridge, else all on loopback."""
    names = [f"loupe{os.getpid()}-{number}" for number in range(count)]
    number = os.getpid() % 250
    bridge = f"loupe{number}"
    with ExitStack() as stack:
        if not _did("link", "add", bridge, "type", "bridge"):
            yield [Host(name) for name in names]
            return
        stack.callback(_did, "link", "del", bridge)
        _do("addr", "add", f"{NETWORK.format(number, 1)}/24", "dev", bridge)
        _do("link", "set", bridge, "up")
        made = [Host(names[0], NETWORK.format(number, 1))]
        for at, name in enumerate(names[1:], 2):
            address, here, there = NETWORK.format(number, at), f"lo{number}h{at}", f"lo{number}p{at}"
            _do("netns", "add", name)
            stack.callback(_did, "netns", "del", name)
            _do("link", "add", here, "type", "veth", "peer", "name", there)
            _do("link", "set", there, "netns", name)
            _do("link", "set", here, "master", bridge, "up")
            for command in (["addr", "add", f"{address}/24", "dev", there], ["link", "set", there, "up"],
                            ["link", "set", "lo", "up"]):  # fmt: skip
                _do("-n", name, *command)
            made.append(Host(name, address, ["ip", "netns", "exec", name, *NAMED, name]))
        yield made


def _do(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"


def _did(*words: str) -> bool:
    try:
        return subprocess.run(["ip", *words], capture_output=True).returncode == 0
    except OSError:
        return False


def cut_off(process: subprocess.Popen[bytes]) -> None:
    """A host's power fails: all that was started there ends at once."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def trials_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The processes on a Dask worker's host that run trials."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if "loupe.search.worker" in child.cmdline():
                found.append(child)
        except psutil.Error:
            continue
    return found
