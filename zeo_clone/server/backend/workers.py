"""Worker threads for slow methods: a bounded pool, its results brought back through the loop's door.

In: functions from the loop thread, each with a lane.  Out: `Deferred` results, settled in the loop
thread. Functions of one lane run one after another, in order; different lanes run side by side as long
as there are threads.  The pool does not know what it runs.

Nobody gets all threads (S14).  What may take long says so: it gets all threads but one, which is left for
what is short, and if it is a generator it is put behind the others after each slice of time.

    short    first come, first served; any thread
    long     any thread but one, and one at least: from the head of the queue, after a slice to its end
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Hashable
from functools import partial
from types import GeneratorType
from typing import Any, NamedTuple

from zeo_clone.loop.core import Loop
from zeo_clone.loop.runtime import Runtime
from zeo_clone.server.deferred import Deferred
from zeo_clone.server.vocabulary import TooBusy

#: Calls that may wait in one lane: a client that sends more without waiting for answers is refused.
MAX_LANE = 1000
#: How long `close` waits for functions that are running, in seconds.
CLOSE_WAIT_S = 2.0
#: How long a thread works at what is done in steps before it looks after others, in seconds.
SLICE_S = 0.02
#: Threads for what the clients of one storage ask that may take long.
LONG_THREADS = 4


class _Job(NamedTuple):
    function: Callable[[], Any]
    deferred: Deferred
    long: bool


class Workers:
    """At most `size` threads, started when needed."""

    def __init__(self, loop: Loop, name: str, size: int) -> None:
        self._loop = loop
        self._name = name
        self._size = size
        self._threads: list[Any] = []
        self._change = loop.runtime.condition()  # protects lanes, idle and busy threads, and the end
        self._lanes: dict[Hashable, deque[_Job]] = {}
        self._short: deque[Hashable] = deque()  # lanes with a job of that kind and no thread
        self._long: deque[Hashable] = deque()
        self._busy_long = 0  # threads that work at long jobs ...
        self._most_long = max(1, size - 1)  # ... and how many of them there may be
        self._idle = 0
        self._closed = False

    def __repr__(self) -> str:
        return f'<Workers {self._name} {len(self._threads)}/{self._size}, {len(self._lanes)} lanes>'

    # ---- loop thread ----------------------------------------------------------------------------

    def run(self, lane: Hashable, function: Callable[[], Any], long: bool = False) -> Deferred:
        """Run `function` in a worker thread, after what `lane` holds already.  Raises `TooBusy`.

        If it returns a generator, what that returns at its end is the result; its steps are to be short.
        """
        deferred = Deferred()
        with self._change:
            jobs = self._lanes.get(lane)
            if jobs is None:
                jobs = self._lanes[lane] = deque()
                (self._long if long else self._short).append(lane)
            elif len(jobs) >= MAX_LANE:
                raise TooBusy(f'{MAX_LANE} calls of this client wait for a worker thread already')
            jobs.append(_Job(function, deferred, long))
            self._change.notify()
            if self._idle >= len(self._short) + len(self._long):
                return deferred
        if len(self._threads) < self._size:
            self._start(deferred)
        return deferred

    def _start(self, deferred: Deferred) -> None:
        """One more thread, or else what `deferred` is of is done by one that is there."""
        number = len(self._threads) + 1
        try:
            self._threads.append(self._loop.runtime.start_thread(self._work, f'{self._name}-{number}'))
        except Exception as error:  # the system has none left
            if not self._threads:
                self._lanes.clear()  # nothing else is there, then
                self._short.clear()
                self._long.clear()
                deferred.fail(error)

    def close(self) -> None:
        """Take no more; let what runs end within `CLOSE_WAIT_S`.  May be called twice."""
        with self._change:
            self._closed = True
            self._lanes.clear()
            self._short.clear()
            self._long.clear()
            self._change.notify_all()
        deadline = self._loop.runtime.monotonic() + CLOSE_WAIT_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - self._loop.runtime.monotonic()))

    # ---- worker thread --------------------------------------------------------------------------

    def _work(self) -> None:
        while (taken := self._take()) is not None:
            lane, job = taken
            settle: Callable[[], None] | None = None
            try:
                value = job.function()
                if type(value) is GeneratorType:
                    steps: Generator[Any, None, Any] = value
                    value = run_slice(steps, self._loop.runtime)
                    if value is steps:  # there is more to do
                        self._finished(lane, job._replace(function=partial(_same, steps)))
                        continue
                settle = partial(job.deferred.succeed, value)
            except Exception as error:
                settle = partial(job.deferred.fail, error)
            self._finished(lane)
            self._loop.door(settle)

    def _take(self) -> tuple[Hashable, _Job] | None:
        """The next job with its lane; None at the end."""
        with self._change:
            self._idle += 1
            while not (queue := self._queue()) and not self._closed:
                self._change.wait()
            self._idle -= 1
            if self._closed or queue is None:
                return None
            lane = queue.popleft()
            if queue is self._long:
                self._busy_long += 1
            return lane, self._lanes[lane][0]

    def _queue(self) -> deque[Hashable] | None:
        """The queue from which a free thread takes its next lane."""
        if self._long and (self._busy_long == 0 or not self._short and self._busy_long < self._most_long):
            return self._long
        return self._short or None

    def _finished(self, lane: Hashable, rest: _Job | None = None) -> None:
        """A thread leaves `lane`, with what is left of its first job."""
        with self._change:
            if self._closed:
                return
            jobs = self._lanes[lane]
            if jobs.popleft().long:
                self._busy_long -= 1
                if self._long:
                    self._change.notify()  # who is idle because there were enough of them
            if rest is not None:
                jobs.appendleft(rest)
            if jobs:
                (self._long if jobs[0].long else self._short).append(lane)
            else:
                del self._lanes[lane]


def run_slice(steps: Generator[Any, None, Any], runtime: Runtime) -> Any:
    """Let `steps` go on for `SLICE_S`: what it returned, or itself if there is more to do."""
    until = runtime.monotonic() + SLICE_S
    try:
        while runtime.monotonic() < until:
            next(steps)
    except StopIteration as end:
        return end.value
    return steps


def _same(value: Any) -> Any:
    return value
