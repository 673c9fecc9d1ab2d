"""The watch over whoever holds a commit lock (L1, L10): one timer, however many commits.

In: who holds the lock, from when to when.  Out: ``held_long(seconds)`` now and then of a holder that takes
its time, ``timed_out(timeout_s)`` of one that took too long.  Loop thread only, on the loop's monotonic
clock.
"""
from __future__ import annotations

import math
from typing import Protocol

from zeo_clone.loop.core import Loop
from zeo_clone.thresholds import HELD_S

#: Whoever holds the lock for long (`HELD_S`) is named in the log, and again each time so much later.
WARN_INTERVAL_S = 10.0


class Holder(Protocol):
    """Who is watched."""

    def held_long(self, held_s: float) -> None:
        """It takes its time: seconds so far."""

    def timed_out(self, timeout_s: float) -> None:
        """It took too long."""


class Watchdog:
    """`timeout_s` None or 0: nobody takes too long.  A timer is not made anew for each commit: it looks when
    it rings.
    """

    def __init__(self, loop: Loop, timeout_s: float | None) -> None:
        self._loop = loop
        self._timeout_s = timeout_s or math.inf
        self._holder: Holder | None = None
        self._since = 0.0  # when it got the lock
        self._warn_s = HELD_S  # when it has held the lock so long, it is named
        self._ticking = False

    def start(self, holder: Holder) -> None:
        """`holder` has `timeout_s` from now."""
        self._holder = holder
        self._since = self._loop.runtime.monotonic()
        self._warn_s = HELD_S
        if not self._ticking:
            self._tick(0.0)

    def stop(self) -> None:
        """It is done."""
        self._holder = None

    def _tick(self, held_s: float) -> None:
        self._ticking = True
        self._loop.call_later(min(self._warn_s, self._timeout_s) - held_s, self._ring)

    def _ring(self) -> None:
        self._ticking = False
        holder = self._holder
        if holder is None:
            return
        held_s = self._loop.runtime.monotonic() - self._since
        if held_s >= self._timeout_s:
            self._holder = None
            holder.timed_out(self._timeout_s)
            return
        try:
            if held_s >= self._warn_s:
                self._warn_s = held_s + WARN_INTERVAL_S
                holder.held_long(held_s)
        finally:
            self._tick(held_s)
