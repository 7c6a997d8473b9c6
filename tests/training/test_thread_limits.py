"""The variables that limit the threads of a training have an effect."""

import os
import subprocess
import sys

from loupe.config.training import THREAD_VARIABLES

COUNT_THREADS = """
import os, jax.numpy
jax.numpy.ones(4).sum().block_until_ready()
print(len(os.listdir("/proc/self/task")))
"""


def test_jax_has_fewer_threads_with_a_limit():
    counts = []
    for threads in ("1", "5"):
        environment = os.environ | dict.fromkeys(THREAD_VARIABLES, threads) | {"JAX_PLATFORMS": "cpu"}
        found = subprocess.run(
            [sys.executable, "-c", COUNT_THREADS], env=environment, capture_output=True, check=True
        )
        counts.append(int(found.stdout))
    assert counts[1] - counts[0] >= 4
