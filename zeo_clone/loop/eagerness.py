"""Eagerness: ask again and again for a moment before sleeping, where that has paid lately.

Waking a processor that sleeps, a virtual one above all, takes longer than an exchange of small messages on
one machine.  A thread whose answer usually comes within that moment finds it without having slept; one
whose answers take longer soon stops trying, and sleeps at once.  In: a function that looks without
waiting.  Out: what it found.  One thread at a time.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zeo_clone.loop.runtime import Runtime

#: After an attempt in vain so many waits sleep at once: 1, 3, 7, ... at most.
MAX_REST = 63
#: Looks of one attempt, should the clock stand still.
MAX_LOOKS = 1000
#: Who gave way and got the processor back only after so many seconds, gave it to somebody who just computes:
#: that one keeps it until the system's scheduler takes it away, 3 or 4 ms with a tick of 250 Hz ...
LONG_S = 0.002
#: ... and is still there, most likely.  Whoever has slept is let in at once; so for so many seconds nobody
#: looks.
CROWDED_S = 0.1


class Eagerness:
    """Decides whether to look, for ``runtime.eager_s`` seconds at most; 0 is never."""

    def __init__(self, runtime: Runtime) -> None:
        self._clock = runtime.monotonic
        self._give_way = runtime.give_way  # to whom else the processor could serve, the peer perhaps
        self._eager_s = runtime.eager_s
        self._rest = 0  # the length of the last rest; 0 after a success
        self._resting = 0  # waits to come that sleep at once
        self._crowded_until = 0.0

    def look(self, poll: Callable[..., Any], *args: Any) -> Any:
        """What ``poll(*args)`` found, or a false value: then sleep."""
        if self._resting:
            self._resting -= 1
            return None
        if not self._eager_s:
            return None
        now = self._clock()
        if now < self._crowded_until:
            return None
        deadline = now + self._eager_s
        for _ in range(MAX_LOOKS):
            found = poll(*args)
            if found:
                self._rest = 0
                return found
            self._give_way()
            before, now = now, self._clock()
            if now - before > LONG_S:
                self._crowded_until = now + CROWDED_S
            if now >= deadline:
                break
        self._rest = self._resting = min(2 * self._rest + 1, MAX_REST)
        return None
