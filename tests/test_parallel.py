"""Work in threads gives what work in one gives."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qqonnx.parallel import available_cores, in_order


@given(
    sizes=st.lists(st.integers(0, 20), max_size=30),
    most=st.integers(1, 30),
    threads=st.integers(1, 4),
)
@settings(max_examples=30, deadline=None)
def test_order_and_bound(sizes: list[int], most: int, threads: int) -> None:
    lock, running, highest = threading.Lock(), [], []

    def work(item: tuple[int, int]) -> int:
        with lock:
            running.append(item[1])
            highest.append((len(running), sum(running), max(running)))
        time.sleep(0.0002 * (item[1] % 3))
        with lock:
            running.remove(item[1])
        return item[0]

    items = list(enumerate(sizes))
    done = list(in_order(work, items, size=lambda item: item[1], most=most, threads=threads))
    assert done == list(range(len(sizes)))
    for count, total, largest in highest:
        assert count <= threads
        assert total <= max(most, largest)


def test_several_at_once() -> None:
    """Each waits for the other: one after the other would never end."""
    barrier = threading.Barrier(2, timeout=20)
    waited = in_order(lambda _: barrier.wait() >= 0, [0, 1], size=lambda _: 1, most=2, threads=2)
    assert list(waited) == [True, True]


@pytest.mark.parametrize("threads", [1, 3])
def test_failure_ends_the_work(threads: int) -> None:
    begun = []

    def work(item: int) -> int:
        begun.append(item)
        if item == 1:
            raise ValueError("one")
        time.sleep(0.01)
        return item

    with pytest.raises(ValueError, match="one"):
        list(in_order(work, range(100), size=lambda _: 1, most=100, threads=threads))
    assert len(begun) < 20
    assert threading.active_count() < 20


def test_cores() -> None:
    assert available_cores() >= 1
