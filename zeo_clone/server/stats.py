"""Counters of one storage, under the names that monitoring tools have known for twenty years.

In: events, from the loop thread.  Out: the dict of ``server_status``, in any thread; reading an int that
another thread changes is harmless here.  Moments are those of a monotonic clock: the other one may be set, by
years even.  Knows no session.
"""
from __future__ import annotations

import datetime
from typing import Any

#: Conflicts are told apart by so many classes.
MAX_CLASSES = 50


class Stats:
    """What has happened to one storage since `now`, which was `start_time` in seconds since the epoch."""

    def __init__(self, now: float, start_time: float) -> None:
        self._since = now
        self._start = datetime.datetime.fromtimestamp(start_time).ctime()
        self.loads = 0
        self.stores = 0
        self.commits = 0
        self.aborts = 0
        self.active_txns = 0
        self.conflicts = 0
        self.conflicts_resolved = 0
        self.conflict_classes: dict[str, int] = {}  # conflicts that stayed ones, by class
        self.invalidations = 0  # objects that clients were told to forget, once for each transaction
        self.verifications = 0  # caches that were to be brought up to date ...
        self.verifications_failed = 0  # ... and were too old for that
        self.timeouts = 0  # clients that held the commit lock for too long
        self.silent = 0  # clients that were not heard of any more
        self.sent = self.received = 0  # bytes, of clients that have gone
        self.latest: dict[str, float] = {}  # when trouble was counted last
        self.packing_time: float | None = None  # since when the storage is packed; None: it is not
        self.lock_time: float | None = None  # since when the commit lock is held; None: it is free

    def count_conflict(self, class_name: str) -> None:
        """One more, of an object of this class."""
        self.conflicts += 1
        if class_name not in self.conflict_classes and len(self.conflict_classes) >= MAX_CLASSES:
            class_name = 'other classes'
        self.conflict_classes[class_name] = self.conflict_classes.get(class_name, 0) + 1

    def count_trouble(self, key: str, now: float) -> None:
        """One more of `key`, of which people want to know when it was."""
        setattr(self, key, getattr(self, key) + 1)
        self.latest[key] = now

    def as_dict(self, connections: int, waiting: int, last_tid: bytes,
                failure: str | None, now: float, time: float) -> dict[str, Any]:
        """The counters of ``server_status``; `failure` is the text of a storage's failure, or None.  `now`
        is `time` in seconds since the epoch."""
        locked, packing = self.lock_time, self.packing_time
        return {
            'connections': connections,
            'loads': self.loads,
            'stores': self.stores,
            'commits': self.commits,
            'aborts': self.aborts,
            'active_txns': self.active_txns,
            'lock_time': None if locked is None else time - (now - locked),
            'conflicts': self.conflicts,
            'conflicts_resolved': self.conflicts_resolved,
            'start': self._start,
            'waiting': waiting,
            'timeout-thread-is-alive': True,  # the loop itself watches over time-outs
            'last-transaction': last_tid.hex(),
            'failed': failure,
            'uptime': round(now - self._since, 3),
            'packing': None if packing is None else round(now - packing, 3),
            'invalidations': self.invalidations,
            'verifications': self.verifications,
            'verifications_failed': self.verifications_failed,
            'timeouts': self.timeouts,
            'silent': self.silent,
            'conflict_classes': dict(self.conflict_classes),
            'latest': {key: round(now - then, 3) for key, then in list(self.latest.items())},
        }
