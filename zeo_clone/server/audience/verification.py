"""Verification: what a client that comes back has to forget, and whether its cache is of this database (C22).

In: the tid at which a cache is.  Out: the answers to ``getInvalidations`` and ``has_transaction``, at once,
in parts, or later.  What the history does not remember the storage may, as far back as ``invalidation-age``
permits: so a site's caches survive a long night.  Loop thread only.
"""
from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, Protocol

from persistent.TimeStamp import TimeStamp
from ZODB.utils import z64

from zeo_clone.loop.core import Loop
from zeo_clone.server.audience.audience import Audience
from zeo_clone.server.deferred import Deferred, in_parts
from zeo_clone.server.stats import Stats

log = logging.getLogger(__name__)

#: So often in a minute it is said that a cache was dropped, ...
WARN_BURST = 6
#: ... and that somebody was away for long.
AWAY_BURST = 5

#: Has a function called in a worker thread.
Run = Callable[[Callable[[], Any]], Deferred]


class Searched(Protocol):
    """What remembers more than the history does.  The methods that search are called in worker threads."""

    @property
    def can_search(self) -> bool:
        """Can it look for what has changed?"""

    @property
    def searches_any_age(self) -> bool:
        """Does it find what has changed since any transaction, without reading all that came after?"""

    @property
    def has_past(self) -> bool:
        """Can it tell whether there was a transaction?"""

    def changed_between(self, after: bytes, until: bytes) -> list[bytes] | None:
        """The oids written later than `after`, up to `until`; None if too many, or `after` is unknown."""

    def has_transaction(self, before: bytes, tid: bytes) -> bool | None:
        """Is `tid`, which is later than `before`, a transaction?  `before` is.  None: not known."""


class Asker(Protocol):
    """The client whose cache is verified, for log lines."""

    @property
    def name(self) -> str:
        """Peer and label."""

    @property
    def origin(self) -> str:
        """What does not change with each connection."""


def is_recent(tid: bytes, age_s: float | None, now: float) -> bool:
    """May the changes since `tid` be looked for, at ``now`` seconds since the epoch?"""
    return bool(age_s) and tid != z64 and TimeStamp(tid).timeTime() >= now - age_s  # type: ignore[operator]


class Verification:
    """The verification of the caches of `audience`, which listens to the storage `name`; `age_s`: how far
    back is searched."""

    def __init__(self, loop: Loop, name: str, stats: Stats, audience: Audience, searched: Searched,
                 age_s: float | None) -> None:
        self._loop = loop
        self._name = name
        self._stats = stats
        self._audience = audience
        self._searched = searched
        self._age_s = age_s

    def __repr__(self) -> str:
        return f'<Verification of {self._name!r}>'

    def changes_since(self, asker: Asker, tid: bytes, run: Run) -> Generator[None, None, Any] | Deferred:
        """``(last tid, oids written after tid)``, encoded; None if that is not known."""
        self._audience.drain()
        history = self._audience.history
        if history.knows(tid) or not self._may_search(tid):
            return self._answer(asker, tid, history.after(tid))
        # The storage itself knows.  What is committed meanwhile is in the history.
        until, result = self._audience.last_tid(), Deferred()
        self._loop.throttle.report(log, logging.INFO, 'away', asker.origin, '%s: was away for long; '
                                   'looking for changes in storage %r', asker.name, self._name,
                                   burst=AWAY_BURST)
        run(partial(self._searched.changed_between, tid, until)).when_settled(
            partial(self._add_recent, asker, tid, until, result))
        return result

    def _may_search(self, tid: bytes) -> bool:
        return self._searched.can_search and tid < self._audience.history.last_tid and (
            self._searched.searches_any_age and tid != z64
            or is_recent(tid, self._age_s, self._loop.runtime.time()))

    def _answer(self, asker: Asker, tid: bytes, parts: Generator[None, None, Any]
                ) -> Generator[None, None, Any]:
        answer = yield from parts
        self._verified(asker, tid, answer is not None)
        return answer

    def _add_recent(self, asker: Asker, tid: bytes, until: bytes, result: Deferred, oids: list[bytes] | None,
                    error: BaseException | None) -> None:
        if oids is None:
            self._verified(asker, tid, False)
            result.settle(None, error)
        else:
            parts = self._answer(asker, tid, self._audience.history.after(until, oids))
            in_parts(self._loop, parts).when_settled(result.settle)

    def _verified(self, asker: Asker, tid: bytes, found: bool) -> None:
        """The cache of `asker`, at `tid`, was brought up to date, or could not be."""
        self._stats.verifications += 1
        if not found:
            self._stats.count_trouble('verifications_failed', self._loop.runtime.monotonic())
            why = 'is older than what is remembered (invalidation-queue-size)'
            if tid > self._audience.history.last_tid:
                why = 'is newer than the storage'
            elif self._audience.history.latest(tid) is not None:
                why = 'is at a transaction that is not in the storage: of another past, or packed'
            self._loop.throttle.report(
                log, logging.WARNING, 'cache', asker.origin,
                '%s: its cache %s and is dropped (storage %r)', asker.name, why, self._name, burst=WARN_BURST)

    def has_transaction(self, tid: bytes, run: Run) -> bool | None | Deferred:
        """Is `tid` one of the storage's transactions?  False: it never was; None: that is not known."""
        self._audience.drain()
        before = self._audience.history.latest(tid)
        if before == tid:
            return True
        if before is None or not self._searched.has_past:
            return None
        return run(partial(self._searched.has_transaction, before, tid))
