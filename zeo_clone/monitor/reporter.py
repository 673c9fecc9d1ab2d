"""Questions to a server: one at a time goes through the door of its loop, however many want to know.

In: askers, in the thread of the monitor's loop.  Out: to each a `Report`, or None if the server's loop does
not answer within `PATIENCE_S`: it is stuck then.  The server's loop is never kept busy with more than one
look at its storages, and nobody waits for it in a thread.
"""
from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

from zeo_clone.loop.core import Loop
from zeo_clone.loop.timers import Timer

log = logging.getLogger(__name__)

#: A loop that has not looked at what waits for it for so many seconds is stuck.
PATIENCE_S = 2.0

Status = dict[str, dict[str, Any]]


class Server(Protocol):
    """Who is asked; of a `StorageServer` no more than this."""

    def call_in_loop(self, function: Callable[[], object]) -> None:
        """Have it called in the server's thread."""

    def ruok(self) -> Status:
        """The status of each storage."""


class Report(NamedTuple):
    """What a server said: `storages` as in ``ruok``; `lag_s`: how long its loop took to listen; `time`: when,
    in seconds of a monotonic clock.
    """

    storages: Status
    lag_s: float
    time: float


Asker = Callable[['Report | None'], object]


class Reporter:
    """Asks one server after the other, mostly the same; `loop` is the monitor's."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._clock = loop.runtime.monotonic
        self._askers: dict[int, tuple[Asker, Timer]] = {}  # bounded by the connections of the monitor
        self._number = 0
        self._under_way = False

    # ---- the monitor's thread ---------------------------------------------------------------------

    def ask(self, server: Server, asker: Asker) -> None:
        """Have `asker` called with a report, or None."""
        self._number += 1
        timer = self._loop.call_later(PATIENCE_S, partial(self._give_up, self._number))
        self._askers[self._number] = asker, timer
        if not self._under_way:
            self._under_way = True
            server.call_in_loop(partial(self._look, server, self._clock()))

    def _give_up(self, number: int) -> None:
        asker, _ = self._askers.pop(number)
        asker(None)

    def _answered(self, report: Report | None) -> None:
        self._under_way = False
        askers, self._askers = self._askers, {}
        for asker, timer in askers.values():
            timer.cancel()
            asker(report)

    # ---- the server's thread ----------------------------------------------------------------------

    def _look(self, server: Server, asked_at: float) -> None:
        now = self._clock()
        report = None
        try:
            report = Report(server.ruok(), now - asked_at, now)
        except Exception as error:
            self._loop.throttle.report(log, logging.ERROR, f'state: {type(error)}', '',
                                       'cannot look at the state of %r', server, error=error)
        self._loop.door(partial(self._answered, report))
