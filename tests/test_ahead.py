"""Work that is done ahead of its use: in order, a bounded lot, in threads."""

from __future__ import annotations

import itertools
import threading
import time
from functools import partial

import pytest
import torch

from asr.ahead import AHEAD_S, ahead, ahead_of_gpu

CPU, GPU = False, True


def names_of_threads() -> set[str]:
    return {t.name for t in threading.enumerate() if t.name.startswith("asr-ahead")}


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("on_gpu", [CPU, GPU])
def test_results_come_in_the_order_of_the_jobs(on_gpu, four_threads):
    def slower_first(number: int) -> int:
        time.sleep(0.002 * (9 - number))
        return number

    assert list(ahead_of_gpu(on_gpu, ((300.0, partial(slower_first, n)) for n in range(10)))) == list(range(10))
    assert not names_of_threads()


def test_on_a_cpu_the_caller_does_a_job_when_it_wants_the_result():
    drawn = []

    def jobs():
        for number in range(5):
            drawn.append(number)
            yield 1.0, threading.current_thread

    results = ahead_of_gpu(CPU, jobs())
    assert next(results) is threading.current_thread() and drawn == [0]


def test_beside_a_gpu_several_threads_work_each_on_one_torch_thread(four_threads):
    together = threading.Barrier(3, timeout=20)

    def meet() -> tuple[str, int]:
        together.wait()
        return threading.current_thread().name, torch.get_num_threads()

    found = list(ahead_of_gpu(GPU, [(1.0, meet)] * 3))
    assert len({name for name, _ in found}) == 3 and {threads for _, threads in found} == {1}


@pytest.mark.parametrize(("seconds", "most"), [(AHEAD_S / 4, 4), (10 * AHEAD_S, 1), (0.0, AHEAD_S / 0.1)])
def test_what_is_held_is_bounded_by_its_seconds(seconds, most):
    drawn = 0

    def endless():
        nonlocal drawn
        while True:
            drawn += 1
            yield seconds, int

    results = ahead_of_gpu(GPU, endless())
    for taken in range(1, 20):
        next(results)
        assert drawn <= taken + most
    assert drawn >= 19 + most - 1
    results.close()
    assert not names_of_threads()


@pytest.mark.parametrize("on_gpu", [CPU, GPU])
def test_what_a_job_raises_comes_out_in_its_place(on_gpu):
    jobs = [(1.0, partial(int, text)) for text in ("1", "2", "x", "4")]
    results = ahead_of_gpu(on_gpu, jobs)
    assert [next(results), next(results)] == [1, 2]
    with pytest.raises(ValueError, match="'x'"):
        next(results)
    assert not names_of_threads()


@pytest.mark.parametrize("on_gpu", [CPU, GPU])
def test_what_drawing_a_job_raises_comes_out_after_the_results_before_it(on_gpu):
    def broken():
        yield from [(1.0, int)] * 3
        raise OSError("no more")

    results = ahead_of_gpu(on_gpu, broken())
    assert list(itertools.islice(results, 3)) == [0, 0, 0]
    with pytest.raises(OSError, match="no more"):
        next(results)
    assert not names_of_threads()


def test_closing_drops_the_jobs_that_have_not_begun():
    begun = []

    def work(number: int) -> int:
        begun.append(number)
        time.sleep(0.01)
        return number

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        results = ahead_of_gpu(GPU, ((AHEAD_S / 50, partial(work, number)) for number in range(1000)))
        next(results)
        results.close()
    finally:
        torch.set_num_threads(before)
    assert len(begun) < 10


@pytest.mark.parametrize(("threads", "most"), [(1, 3), (3, 7), (8, 4), (2, 2)])
def test_no_more_is_done_ahead_than_asked_for_and_all_come_in_order(threads, most):
    drawn, taken = 0, 0

    def jobs():
        nonlocal drawn
        for number in range(20):
            drawn += 1
            assert drawn - taken <= most + 1, "those ahead, and the one that has to wait"
            yield 1.0, partial(int, number)

    results = []
    for result in ahead(jobs(), threads, most):
        taken += 1
        results.append(result)
    assert results == list(range(20))
