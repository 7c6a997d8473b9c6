"""Limits the time of a call. The timeout of a socket limits neither name lookups nor answers that arrive slowly."""

import queue
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def call_within(seconds: float, function: Callable[[], T]) -> T:
    """Call a function in a thread and return its result.

    Args:
        seconds: the limit.
        function: the function. After the limit, the function continues in its thread until the process exits.

    Raises:
        TimeoutError: the function did not return in time.
    """
    results: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def call() -> None:
        try:
            results.put((function(), None))
        except BaseException as error:
            results.put((None, error))

    threading.Thread(target=call, daemon=True).start()
    try:
        result, error = results.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer in {seconds:.0f} s") from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value] # the result is None only if T includes None
