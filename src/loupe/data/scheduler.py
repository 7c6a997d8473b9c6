"""Connects to a Dask scheduler, which runs tasks and trials on many machines."""

import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from loupe.errors import LoupeError, UsageError, describe_error


@contextmanager
def connect(address: str) -> Iterator[Any]:
    """Open a Dask client for a scheduler's address, such as `tcp://host:8786`.

    Raises:
        UsageError: the address is not valid, no scheduler answers, or Loupe is not installed on the scheduler's
            machine.
        LoupeError: the connection was lost during the block.
    """
    from distributed import Client

    try:
        client = Client(address, timeout="10s")
    except (OSError, ValueError, TypeError) as error:  # TypeError: TLS or UCX is not configured
        raise UsageError(
            f"scheduler: must be the address of a running Dask scheduler, got {address!r} "
            f"({describe_error(error, address)})"
        ) from None
    with client:
        try:
            client.run_on_scheduler(pkgutil.resolve_name, "loupe:__version__")
        except ImportError:
            raise UsageError(
                "scheduler: must have Loupe installed on its machine and on all workers, "
                f"got {address!r} without Loupe"
            ) from None
        except OSError:
            raise LoupeError(f"scheduler: {address!r} no longer answers") from None
        try:
            yield client
        except Exception:
            if client.status != "running":
                raise LoupeError(f"scheduler: {address!r} no longer answers") from None
            raise
