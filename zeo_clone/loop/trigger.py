"""The trigger: the one door into the loop's thread.

Any thread hands in callbacks with `pull`; the loop's thread takes them out and calls them in that
order.  A byte through a socket pair wakes the poller; when the pair is full, enough are under way.  It
has no lock, so a signal handler may pull it.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zeo_clone.loop.runtime import Runtime


class Trigger:
    """A queue of callbacks and a descriptor that is readable while the queue is not empty."""

    def __init__(self, runtime: Runtime) -> None:
        self._reader, self._writer = runtime.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._calls: deque[Callable[[], object]] = deque()  # append and popleft are atomic
        self._closed = False

    # ---- any thread ---------------------------------------------------------------------------

    def fileno(self) -> int:
        """The descriptor to poll for reading."""
        return self._reader.fileno()

    def pull(self, callback: Callable[[], object] | None = None) -> None:
        """Wake the loop and have it call `callback`.  After `close` nothing happens."""
        if callback is not None:
            self._calls.append(callback)
        try:
            self._writer.send(b'x')
        except (BlockingIOError, InterruptedError):
            pass  # the pipe is full of wake-ups
        except OSError:
            if not self._closed:
                raise

    # ---- loop thread --------------------------------------------------------------------------

    def take(self) -> Iterator[Callable[[], object]]:
        """Swallow the wake-ups and give out the callbacks so far, each when it is asked for."""
        try:
            while len(self._reader.recv(4096)) == 4096:
                pass
        except (BlockingIOError, InterruptedError):
            pass
        try:
            for _ in range(len(self._calls)):
                yield self._calls.popleft()
        finally:
            if self._calls:
                self.pull()  # perhaps an interrupt ended the turn: the rest waits for the next one

    def close(self) -> None:
        """Close the descriptors; callbacks that were not taken are never called."""
        self._closed = True
        self._reader.close()
        self._writer.close()
