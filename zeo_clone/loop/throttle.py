"""A throttle for log lines that would repeat without end (N15).

A key in; out, whether to log now, and how often it was kept quiet since the last time.  Any thread; it
knows no log.
"""
from __future__ import annotations

from collections.abc import Callable

#: A line about the same thing comes at most once in so many seconds.
INTERVAL_S = 10.0
#: Keys that are remembered; with more, all begin anew.
MAX_KEYS = 1000


class Throttle:
    """``clock``: monotonic seconds."""

    def __init__(self, clock: Callable[[], float], interval_s: float = INTERVAL_S) -> None:
        self._clock = clock
        self._interval_s = interval_s
        self._last: dict[str, tuple[float, int]] = {}  # when it was said, how often not since

    def admits(self, key: str) -> str | None:
        """What to add to the line, mostly nothing; None: do not log now."""
        now = self._clock()
        said_at, kept_quiet = self._last.get(key, (now - self._interval_s, 0))
        if now - said_at < self._interval_s:
            self._last[key] = said_at, kept_quiet + 1
            return None
        if len(self._last) >= MAX_KEYS:
            self._last.clear()
        self._last[key] = now, 0
        return f' (and {kept_quiet} times more before)' if kept_quiet else ''
