"""Work on a stream of audio that is done ahead of its use, in threads beside a GPU."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import NoReturn, TypeVar

import torch

#: audio that waits or is being worked on, seconds: about one batch of a GPU
AHEAD_S = 1000.0
#: what a piece of audio counts at least: endless empty ones must not fill the memory
LEAST_S = 0.1
T = TypeVar("T")


def ahead(device: torch.device, jobs: Iterable[tuple[float, Callable[[], T]]]) -> Iterator[T]:
    """Yield what each job returns, in order. If the network is on a GPU, threads do the next jobs meanwhile.

    One core makes features of about 1,100 s of audio per second, which a GPU takes many times as fast. On a CPU the
    caller's thread does each job when it is asked for the result, since the network has the other cores.

    What a job raises, or what drawing one raises, comes out where its result would have come. Threads are stopped then,
    and when the iterator is closed.

    Args:
        jobs: seconds of audio, and what to do with them. At most ``AHEAD_S`` are held, or one that is longer.
    """
    if device.type != "cuda":
        for _, job in jobs:
            yield job()
        return

    pool = pool_of(torch.get_num_threads(), "asr-ahead")
    waiting: deque[tuple[float, Future[T]]] = deque()
    waiting_s = 0.0
    try:
        for audio_s, job in _with_error_last(jobs):
            audio_s = max(audio_s, LEAST_S)
            while waiting and waiting_s + audio_s > AHEAD_S:
                first_s, first = waiting.popleft()
                waiting_s -= first_s
                yield first.result()
            waiting.append((audio_s, pool.submit(job)))
            waiting_s += audio_s
        while waiting:
            yield waiting.popleft()[1].result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def pool_of(threads: int, name: str) -> ThreadPoolExecutor:
    """Make a pool whose threads compute alone: there is no barrier at which they would wait for each other."""
    return ThreadPoolExecutor(threads, name, initializer=torch.set_num_threads, initargs=(1,))


def _with_error_last(jobs: Iterable[tuple[float, Callable[[], T]]]) -> Iterator[tuple[float, Callable[[], T]]]:
    """Yield the jobs; if drawing one raises, yield a last job that raises the same."""
    try:
        yield from jobs
    except Exception as error:
        yield 0.0, partial(_raise, error)


def _raise(error: Exception) -> NoReturn:
    raise error
