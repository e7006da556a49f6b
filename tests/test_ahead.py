from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from asr.training.ahead import load_ahead


@pytest.mark.parametrize(("workers", "num_ahead"), [(1, 2), (3, 6), (8, 3), (2, 1)])
def test_no_more_is_loaded_ahead_than_asked_for_and_all_come_in_order(workers, num_ahead):
    asked, started = 0, 0

    def plans() -> Iterator[int]:
        nonlocal started
        for plan in range(20):
            started += 1
            assert started - asked <= num_ahead + 1, "the one that is waited for, and those ahead of it"
            yield plan

    loaded = []
    batches = load_ahead(lambda plan: 10 * plan, plans(), workers, num_ahead)
    for one in batches:
        asked += 1
        loaded.append(one)
    assert loaded == [10 * plan for plan in range(20)]
    assert started - asked == 0


def test_without_workers_each_is_loaded_when_it_is_asked_for():
    threads = []
    loading = load_ahead(lambda plan: threads.append(threading.current_thread()), range(5), 0, 9)
    next(loading)
    assert threads == [threading.current_thread()]
