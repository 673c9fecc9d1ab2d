"""What is done every now and then: the database is measured, and forgets what nobody asks for any more.

In: a pool of threads.  Out: length and size, as they were last.  Loop thread only; the work is in threads.
"""
from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from zeo_clone.loop.core import Loop
from zeo_clone.server.backend.database.relstorage import Database
from zeo_clone.server.backend.workers import Workers

log = logging.getLogger(__name__)

#: Seconds between two looks at how large the database is ...
MEASURE_S = 20.0
#: ... and at what can be forgotten.
PRUNE_S = 3600.0


class Upkeep:
    """The upkeep of `database`."""

    def __init__(self, loop: Loop, name: str, database: Database) -> None:
        self._loop = loop
        self._name = name
        self._database = database
        #: Objects, about, and bytes.
        self.measured = database.measure()

    def start(self, workers: Workers) -> None:
        """Begin, in threads of `workers`."""
        self._loop.call_later(MEASURE_S, partial(self._do, workers, self._measure, MEASURE_S))
        self._do(workers, self._database.prune, PRUNE_S)

    def _do(self, workers: Workers, what: Callable[[], Any], pause_s: float) -> None:
        workers.run(self, what).when_settled(partial(self._done, workers, what, pause_s))

    def _done(self, workers: Workers, what: Callable[[], Any], pause_s: float, _: object,
              error: BaseException | None) -> None:
        if error is not None:
            log.debug('storage %r: the database cannot be looked after: %s', self._name, error)
        self._loop.call_later(pause_s, partial(self._do, workers, what, pause_s))

    def _measure(self) -> None:
        self.measured = self._database.measure()
