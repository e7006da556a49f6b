"""Do work ahead of its use, in order, in threads beside the one that uses it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import NoReturn, TypeVar

from asr.machine import num_threads, pool_of

#: audio that is worked on ahead of a GPU, seconds: about one of its batches
AHEAD_S = 1000.0
#: what a piece of audio counts at least: endless empty ones must not fill the memory
LEAST_S = 0.1
T = TypeVar("T")


def ahead(jobs: Iterable[tuple[float, Callable[[], T]]], threads: int, most: float) -> Generator[T, None, None]:
    """Yield what each job returns, in order, while threads do the next ones.

    What a job raises, or what drawing one raises, comes out where its result would have come. Threads are stopped then,
    and when the generator is closed.

    Args:
        jobs: how much each counts, and what to do.
        threads: 0: each job is done when its result is asked for, in the thread that asks.
        most: what the jobs that are done ahead, or being done, count together; one that counts more goes alone.
    """
    if threads == 0:
        for _, job in jobs:
            yield job()
        return

    pool = pool_of(threads, "asr-ahead")
    waiting: deque[tuple[float, Future[T]]] = deque()
    total = 0.0
    try:
        for count, job in _with_error_last(jobs):
            while waiting and total + count > most:
                first_count, first = waiting.popleft()
                total -= first_count
                yield first.result()
            waiting.append((count, pool.submit(job)))
            total += count
        while waiting:
            yield waiting.popleft()[1].result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def ahead_of_gpu(on_gpu: bool, jobs: Iterable[tuple[float, Callable[[], T]]]) -> Generator[T, None, None]:
    """Yield what each job returns, in order; if the network is on a GPU, threads do the next ones meanwhile.

    One core reads and computes the features of some thousand seconds of audio per second; a GPU takes more. On a CPU
    the network has the other cores.

    Args:
        on_gpu: whether the network is.
        jobs: seconds of audio, and what to do with it. At most ``AHEAD_S`` are held, or one that is longer.
    """
    counted = ((max(audio_s, LEAST_S), job) for audio_s, job in jobs)
    return ahead(counted, num_threads() if on_gpu else 0, AHEAD_S)


def _with_error_last(jobs: Iterable[tuple[float, Callable[[], T]]]) -> Iterator[tuple[float, Callable[[], T]]]:
    """Yield the jobs; if drawing one raises, yield a last job that raises the same."""
    try:
        yield from jobs
    except Exception as error:
        yield 0.0, partial(_raise, error)


def _raise(error: Exception) -> NoReturn:
    raise error
