"""Limits the time of a whole call. A socket's timeout limits neither name lookups nor the total time of an answer."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

Result = TypeVar("Result")


def call_within(seconds: float, function: Callable[[], Result]) -> Result:
    """Call a function in a thread and return its result.

    Raises:
        TimeoutError: the function did not return in time; it continues in its thread.
        BaseException: any exception of the function.
    """
    future: Future[Result] = Future()

    def call() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    # The threads of ThreadPoolExecutor are not used, because Python waits for them when it exits.
    threading.Thread(target=call, daemon=True).start()
    if not wait([future], seconds).done:
        raise TimeoutError(f"no answer in {seconds:.0f} s")
    return future.result()
