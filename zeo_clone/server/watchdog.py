"""The watch over whoever holds a commit lock (L1, L10): one timer, however many commits.

In: who holds the lock, from when to when.  Out: ``timed_out(timeout_s)`` of a holder that took too long.
Loop thread only, on the loop's monotonic clock.
"""
from __future__ import annotations

from typing import Protocol

from zeo_clone.loop.core import Loop


class Holder(Protocol):
    """Who is watched."""

    def timed_out(self, timeout_s: float) -> None:
        """It took too long."""


class Watchdog:
    """`timeout_s` None or 0: it sleeps.  A timer is not made anew for each commit: it looks when it
    rings.
    """

    def __init__(self, loop: Loop, timeout_s: float | None) -> None:
        self._loop = loop
        self._timeout_s = timeout_s or 0.0
        self._holder: Holder | None = None
        self._deadline = 0.0
        self._ticking = False

    def start(self, holder: Holder) -> None:
        """`holder` has `timeout_s` from now."""
        if self._timeout_s:
            self._holder = holder
            self._deadline = self._loop.runtime.monotonic() + self._timeout_s
            self._tick(self._timeout_s)

    def stop(self) -> None:
        """It is done."""
        self._holder = None

    def _tick(self, delay_s: float) -> None:
        if not self._ticking:
            self._ticking = True
            self._loop.call_later(delay_s, self._ring)

    def _ring(self) -> None:
        self._ticking = False
        if self._holder is None:
            return
        left = self._deadline - self._loop.runtime.monotonic()
        if left > 0:
            self._tick(left)
        else:
            holder, self._holder = self._holder, None
            holder.timed_out(self._timeout_s)
