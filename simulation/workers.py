"""Processes that run seeds, as many at a time as there are processors.

Imported before the product, in each of these processes too, which get the arguments of the command.
"""
from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor

from simulation import lines

if '--lines' in sys.argv:  # before the product is imported
    lines.install()

from simulation.runs import Result, Wishes, run

#: So many seeds wait for each process, lest a long one keeps the others from work.
AHEAD = 8


def processors() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def begin_work() -> None:
    """In a process that runs seeds: Ctrl-C is for its parent, with which it ends, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


class Workers:
    """Processes that run seeds; with one job this one does."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._pool = None if jobs == 1 else ProcessPoolExecutor(
            jobs, multiprocessing.get_context('spawn'), begin_work)

    def results(self, seeds: Iterator[int], wishes: Wishes, verbose: bool) -> Generator[Result, None, None]:
        """In the order of the seeds.  When it is closed, what was not begun is not run any more."""
        if self._pool is None:
            for seed in seeds:
                yield run(seed, wishes, print if verbose else None)
            return
        asked: deque[Future[Result]] = deque()
        try:
            while True:
                for seed in itertools.islice(seeds, self._jobs * AHEAD - len(asked)):
                    asked.append(self._pool.submit(run, seed, wishes))
                if not asked:
                    return
                yield asked.popleft().result()
        finally:
            for future in asked:
                future.cancel()

    def close(self) -> None:
        """Wait for what is run, no longer."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
