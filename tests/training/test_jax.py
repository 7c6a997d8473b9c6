"""Training on the JAX backend: the tests of the training loop, and those of compiled steps on four CPU devices."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
# Tests of the loop around the steps, which is the same on both backends.
SAME_ON_BOTH = (
    "patience or points_ or every_point or schedule or decay or shape_of_a_batch or larger_than or "
    "in_flops or six_per_product or twice or too_many"
)


@pytest.mark.slow(80)
def test_training_on_the_jax_backend(tmp_path: Path) -> None:
    environment = os.environ | {"KERAS_BACKEND": "jax", "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    # The tests compile the same networks many times.
    environment |= {"JAX_COMPILATION_CACHE_DIR": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"]
    command += ["-k", f"not ({SAME_ON_BOTH})"]
    command += [str(FOLDER / module) for module in ("jax_steps.py", "test_loop.py")]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout[-3000:]
