"""Parallel work in threads: numpy releases the interpreter lock while it computes."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MOST_VALUES = 2**25
"""Largest number of weight values in work at once; each takes up to about 20 bytes."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def available_cores() -> int:
    """Return the number of cores that this process may use."""
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
    """Yield `work(item)` for each item in order, computed in several threads.

    When one item fails or the iterator is closed, items that have not started are dropped.

    Args:
        work: the function; its result must not depend on the order of calls.
        items: the items.
        size: returns the size of an item.
        threads: number of threads.
        most: largest total size of the items in work; a larger item is processed alone.
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
            # Threads see the context variables of the caller.
            running.append((pool.submit(copy_context().run, work, item), count))
        while running:
            yield running.popleft()[0].result()
    finally:
        pool.shutdown(cancel_futures=True)
