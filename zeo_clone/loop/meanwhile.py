"""What is done again and again as long as a block runs, in a thread of its own."""
from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from zeo_clone.loop.runtime import Runtime


@contextlib.contextmanager
def meanwhile(runtime: Runtime, interval_s: float, act: Callable[[], object], name: str) -> Iterator[None]:
    """Call `act` every `interval_s` seconds, in a thread called `name`, as long as the block runs."""
    over = runtime.event()

    def run() -> None:
        while not over.wait(interval_s):
            act()

    try:
        thread = runtime.start_thread(run, name)
        try:
            yield
        finally:
            over.set()
            thread.join()
    finally:
        over.set()  # a signal's exception may end any step, that of the start too
