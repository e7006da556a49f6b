"""Load things ahead, in order, in threads beside the one that uses them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Plan = TypeVar("Plan")
Loaded = TypeVar("Loaded")


def load_ahead(
    load: Callable[[Plan], Loaded], plans: Iterable[Plan], workers: int, num_ahead: int
) -> Generator[Loaded, None, None]:
    """Yield what is loaded for each plan, in order; close the generator to stop its threads.

    Args:
        workers: number of threads; 0: each is loaded when it is asked for, in the thread that asks.
        num_ahead: how many are loaded, or being loaded, before they are asked for.
    """
    if workers == 0:
        for plan in plans:
            yield _load_on_one_thread(load, plan)
        return

    # Torch counts threads per thread: a worker must not take the cores of the network.
    pool = ThreadPoolExecutor(workers, "asr-data", initializer=torch.set_num_threads, initargs=(1,))
    loading: deque[Future[Loaded]] = deque()

    try:
        for plan in plans:
            loading.append(pool.submit(load, plan))
            if len(loading) > num_ahead:
                yield loading.popleft().result()

        while loading:
            yield loading.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _load_on_one_thread(load: Callable[[Plan], Loaded], plan: Plan) -> Loaded:
    """Load as a worker does: over several threads, a matrix product is rounded differently in its last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return load(plan)
    finally:
        torch.set_num_threads(threads)
