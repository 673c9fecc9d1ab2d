"""Timers: a heap of callbacks with their times, on an injected clock.

Used by the loop in its own thread only.  Knows no descriptor and never sleeps; it tells how long the
loop may sleep.
"""
from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator


class Timer:
    """One planned callback; `cancel` may be called at any time, also twice."""

    __slots__ = ('callback', 'number', 'when')

    def __init__(self, when: float, number: int, callback: Callable[[], object]) -> None:
        self.when = when
        self.number = number
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        """Never call back.  The entry leaves the heap when its time comes."""
        self.callback = None

    def __lt__(self, other: Timer) -> bool:
        return (self.when, self.number) < (other.when, other.number)

    def __repr__(self) -> str:
        return f'<Timer at {self.when:.3f}{"" if self.callback else " cancelled"}>'


class Timers:
    """Callbacks in the order of their times, then of their planning.  ``clock``: monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._heap: list[Timer] = []
        self._planned = 0

    def __len__(self) -> int:
        return sum(1 for timer in self._heap if timer.callback is not None)

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        """Plan `callback` in `delay_s` seconds."""
        self._planned += 1
        timer = Timer(self._clock() + delay_s, self._planned, callback)
        heapq.heappush(self._heap, timer)
        return timer

    def delay(self) -> float | None:
        """Seconds until the next timer is due, 0 if one is due, None without timers."""
        while self._heap and self._heap[0].callback is None:
            heapq.heappop(self._heap)
        if not self._heap:
            return None
        return max(0.0, self._heap[0].when - self._clock())

    def pop_due(self) -> Iterator[Callable[[], object]]:
        """Take out the callbacks that are due now, earliest first.

        Each when it is asked for, so that one can still cancel a later one; none planned meanwhile.
        """
        now, last = self._clock(), self._planned
        while self._heap and self._heap[0].when <= now and self._heap[0].number <= last:
            timer = heapq.heappop(self._heap)
            callback, timer.callback = timer.callback, None
            if callback is not None:
                yield callback
