"""Functions that the tests of child processes run."""

import os
import time

import numpy as np

from loupe.imaging.limits import limit_process, read_data_bytes


def echo(connections, suffix):
    """Answer on each connection in turn: the text with the suffix, and the parts in reverse order."""
    while True:
        for connection in connections:
            text, parts = connection.receive()
            connection.send(text + suffix, *reversed(parts))


def compute(connections):
    """Use CPU time beyond the limit."""
    with limit_process(2**31, 0):
        connections[0].send("started")
        while True:
            pass


def allocate(connections):
    """Allocate memory within the limit, beyond the limit, and after the end of the limit."""
    with limit_process(read_data_bytes() + 50_000_000, 60):
        answers = [len(np.zeros(10_000_000, "uint8"))]
        try:
            np.zeros(100_000_000, "uint8")
        except MemoryError:
            answers.append("MemoryError")
    connections[0].send([*answers, len(np.zeros(100_000_000, "uint8"))])


def sleep(connections):
    """Send the process id, and sleep."""
    connections[0].send(os.getpid())
    time.sleep(60)
