"""Groups the GPUs of this machine for the worker processes of a sweep."""

import itertools
import os
import re
import subprocess

from loupe.search.sweep_file import SweepFile

VARIABLE = "CUDA_VISIBLE_DEVICES"
LISTING_TIMEOUT_S = 30.0


def group_gpus(sweep: SweepFile) -> list[str]:
    """Group the GPUs that this process may use. Each group has as many GPUs as a trial uses (`devices`).

    Returns:
        The value of CUDA_VISIBLE_DEVICES per group; [] without GPUs. If `devices` is `all`, a key of [search], or
        more than the number of GPUs, one group contains all GPUs. GPUs that do not fill a group are not used.
    """
    gpus = _list_gpus()
    values = dict.fromkeys(sweep.search, "all") | sweep.train
    devices = {key.rpartition(".")[2]: str(value) for key, value in values.items()}.get("devices", "1")
    size = min(int(devices), len(gpus)) if devices.isdecimal() else len(gpus)
    return [",".join(gpus[start : start + size]) for start in range(0, len(gpus) - size + 1, size)] if gpus else []


def _list_gpus() -> list[str]:
    """Return the devices of CUDA_VISIBLE_DEVICES or, if it is not set, the UUIDs of the GPUs from `nvidia-smi`."""
    visible = os.environ.get(VARIABLE)
    if visible is not None:  # CUDA ignores all devices after an invalid device
        devices = [device.strip() for device in visible.split(",")]
        return list(itertools.takewhile(re.compile(r"\d+|(GPU|MIG)-.+").fullmatch, devices))
    try:
        result = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=LISTING_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    gpus = re.findall(r"UUID: ((?:GPU|MIG)-[^)\s]+)", result.stdout)
    parts = [gpu for gpu in gpus if gpu.startswith("MIG")]
    # A GPU with parts (MIG) cannot be used as a whole. If there are parts, GPUs without parts are not used either.
    return parts or gpus
