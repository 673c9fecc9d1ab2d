"""How long things take: histograms of one storage with fixed buckets, for monitoring.

In: durations in seconds, from the loop thread.  Out: a dict of numbers, in any thread, exact in the loop's.
Nothing of this exists unless somebody asked for it: a server without metrics does not look at the clock.
Knows no session and no network.
"""
from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from typing import Any

from zeo_clone.server.deferred import Deferred

#: Upper ends of the buckets, in seconds, themselves included: from a record in the system's memory to a
#: commit that waits for a time-out.  What took longer goes into one more bucket.
BOUNDS_S = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
            0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Histogram:
    """Counts durations by size."""

    __slots__ = ('counts', 'sum_s')

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def __repr__(self) -> str:
        return f'<Histogram of {sum(self.counts)} durations, {self.sum_s:.6f} s>'

    def observe(self, seconds: float) -> None:
        """Something took so long."""
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.sum_s += seconds

    def as_dict(self) -> dict[str, Any]:
        """``sum`` in seconds, and ``counts``, one number for each bucket, the unbounded one last."""
        return {'sum': self.sum_s, 'counts': list(self.counts)}


class Latency:
    """What is measured of one storage.  ``clock``: monotonic seconds.

    ``load``: the storage's part of reading a current record.  ``lock_wait``: from the vote until the commit
    lock is held.  ``vote``: from there until the storage has voted.  ``finish``: the storage's
    ``tpc_finish``, and telling the other clients.  What fails is not counted.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.load = Histogram()
        self.lock_wait = Histogram()
        self.vote = Histogram()
        self.finish = Histogram()

    def as_dict(self) -> dict[str, Any]:
        """``bounds`` of the buckets in seconds, and the dict of each histogram under its name."""
        return {'bounds': list(BOUNDS_S), 'load': self.load.as_dict(), 'lock_wait': self.lock_wait.as_dict(),
                'vote': self.vote.as_dict(), 'finish': self.finish.as_dict()}


class TimedReader:
    """Stands for a storage where records are read, and measures that.

    ``slow(oid, revision, seconds)`` is told of what took `slow_s` seconds or longer.
    """

    def __init__(self, storage: Any, latency: Latency, slow_s: float = math.inf,
                 slow: Callable[[bytes, Any, float], object] | None = None) -> None:
        self._load_before = storage.loadBefore
        self._clock = latency.clock
        self._load = latency.load
        self._slow_s = slow_s
        self._slow = slow

    def loadBefore(self, oid: bytes, tid: bytes) -> Any:
        """As the method of the storage, and measured."""
        clock, load = self._clock, self._load
        started = clock()
        revision = self._load_before(oid, tid)
        if type(revision) is Deferred:
            return self._later(oid, started, revision)
        seconds = clock() - started
        load.counts[bisect_left(BOUNDS_S, seconds)] += 1  # as `observe`, but this happens for each load
        load.sum_s += seconds
        if seconds >= self._slow_s and self._slow is not None:
            self._slow(oid, revision, seconds)
        return revision

    def _later(self, oid: bytes, started: float, loading: Deferred) -> Deferred:
        """Measure what comes later; what fails is not counted."""
        answer = Deferred()

        def measure(revision: Any, error: BaseException | None) -> None:
            seconds = self._clock() - started
            if error is None:
                self._load.observe(seconds)
                if seconds >= self._slow_s and self._slow is not None:
                    self._slow(oid, revision, seconds)
            answer.settle(revision, error)

        loading.when_settled(measure)
        return answer


class Laps:
    """Measures one session's transactions, from phase to phase."""

    def __init__(self, latency: Latency) -> None:
        self._clock = latency.clock
        self._finish = latency.finish
        self._phases = {'waiting': latency.lock_wait, 'replaying': latency.vote}
        self._since = 0.0
        self._finishing = False
        #: Seconds that the transaction has spent in each phase; ``finishing`` is ``tpc_finish``.
        self.spent_s: dict[str, float] = {}

    def moved(self, before: str, after: str) -> None:
        """The transaction goes from one phase to another; to idle, if it was aborted there."""
        now = self._clock()
        histogram = self._phases.get(before)
        if histogram is not None and after != 'idle':
            histogram.observe(now - self._since)
        if before == 'idle':
            self.spent_s = {}
        else:
            self._add('finishing' if self._finishing else before, now)
        self._finishing = False
        self._since = now

    def _add(self, phase: str, now: float) -> None:
        self.spent_s[phase] = self.spent_s.get(phase, 0.0) + now - self._since

    def finishing(self, phase: str) -> float:
        """The client has asked for ``tpc_finish`` in `phase`.  Returns the time, for `finished`."""
        now = self._clock()
        if phase != 'idle':
            self._add(phase, now)
            self._finishing = True
        self._since = now
        return now

    def finished(self, since: float) -> None:
        """A ``tpc_finish`` that began at `since` has ended well."""
        self._finish.observe(self._clock() - since)
