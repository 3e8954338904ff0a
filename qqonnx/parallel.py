"""Work on several items at once, in threads: numpy lets others run while it computes."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MOST_VALUES = 2**25
"""Values of weights in work at once, a larger weight aside: each may take some 20 bytes."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def in_order(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    size: Callable[[Item], int],
    threads: int,
    most: int = MOST_VALUES,
) -> Iterator[Result]:
    """Yield `work(item)` of each item, in their order, as if done one after the other.

    Items that have not begun are given up when one fails or the iterator is closed.

    Args:
        work: what is done; must not depend on the order.
        items: what it is done to.
        size: what an item counts.
        threads: how many are worked on at once.
        most: items in work count at most this together; a larger one is worked on alone.
    """
    if threads == 1:
        yield from map(work, items)
        return
    pool = ThreadPoolExecutor(threads)
    running: deque[tuple[Future[Result], int]] = deque()
    try:
        for item in items:
            count = size(item)
            while running and (
                len(running) > threads or sum(other for _, other in running) + count > most
            ):
                yield running.popleft()[0].result()
            running.append((pool.submit(work, item), count))
        while running:
            yield running.popleft()[0].result()
    finally:
        pool.shutdown(cancel_futures=True)
