"""Worker threads for slow methods: a bounded pool, its results brought back through the loop's door.

In: functions from the loop thread, each with a lane.  Out: `Deferred` results, settled in the loop
thread. Functions of one lane run one after another, in order; different lanes run side by side as long
as there are threads.  The pool does not know what it runs.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

from zeo_clone.loop.core import Loop
from zeo_clone.server.deferred import Deferred

#: Calls that may wait in one lane: a client that sends more without waiting for answers is refused.
MAX_LANE = 1000
#: How long `close` waits for functions that are running, in seconds.
CLOSE_WAIT_S = 2.0

_Job = tuple[Callable[[], Any], Deferred]


class TooBusy(Exception):
    """A lane is full."""


class Workers:
    """At most `size` threads, started when needed."""

    def __init__(self, loop: Loop, name: str, size: int) -> None:
        self._loop = loop
        self._name = name
        self._size = size
        self._threads: list[Any] = []
        self._change = loop.runtime.condition()  # protects the fields below
        self._lanes: dict[Hashable, deque[_Job]] = {}
        self._ready: deque[Hashable] = deque()  # lanes with a job and no thread
        self._idle = 0
        self._closed = False

    def __repr__(self) -> str:
        return f'<Workers {self._name} {len(self._threads)}/{self._size}, {len(self._lanes)} lanes>'

    # ---- loop thread ----------------------------------------------------------------------------

    def run(self, lane: Hashable, function: Callable[[], Any]) -> Deferred:
        """Run `function` in a worker thread, after what `lane` holds already.  Raises `TooBusy`."""
        deferred = Deferred()
        with self._change:
            jobs = self._lanes.get(lane)
            if jobs is None:
                jobs = self._lanes[lane] = deque()
                self._ready.append(lane)
            elif len(jobs) >= MAX_LANE:
                raise TooBusy(f'{MAX_LANE} calls of this client wait for a worker thread already')
            jobs.append((function, deferred))
            if self._idle >= len(self._ready):
                self._change.notify()
                return deferred
        if len(self._threads) < self._size:
            number = len(self._threads) + 1
            self._threads.append(self._loop.runtime.start_thread(self._work, f'{self._name}-{number}'))
        return deferred

    def close(self) -> None:
        """Take no more; let what runs end within `CLOSE_WAIT_S`.  May be called twice."""
        with self._change:
            self._closed = True
            self._lanes.clear()
            self._ready.clear()
            self._change.notify_all()
        deadline = self._loop.runtime.monotonic() + CLOSE_WAIT_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - self._loop.runtime.monotonic()))

    # ---- worker thread --------------------------------------------------------------------------

    def _work(self) -> None:
        while (lane := self._next_lane()) is not None:
            with self._change:
                if self._closed:
                    return
                function, deferred = self._lanes[lane][0]
            try:
                settle = partial(deferred.succeed, function())
            except Exception as error:
                settle = partial(deferred.fail, error)
            self._finished(lane)
            self._loop.door(settle)

    def _next_lane(self) -> Hashable | None:
        with self._change:
            self._idle += 1
            while not self._ready and not self._closed:
                self._change.wait()
            self._idle -= 1
            return None if self._closed else self._ready.popleft()

    def _finished(self, lane: Hashable) -> None:
        with self._change:
            if self._closed:
                return
            jobs = self._lanes[lane]
            jobs.popleft()
            if jobs:
                self._ready.append(lane)
            else:
                del self._lanes[lane]
