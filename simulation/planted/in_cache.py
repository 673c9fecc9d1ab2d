"""Bugs of the cache of a client and of its file."""
from __future__ import annotations

from typing import Any

from simulation.planted import Patch, plant
from zeo_clone.cache.cache import ClientCache
from zeo_clone.cache.file import CacheFile


@plant('The cache is told of a transaction after the database.')
def cache_told_late() -> list[Patch]:
    from zeo_clone.client.effects import Effects

    def invalidate(self: Any, tid: bytes, oids: list[bytes], more: bool = False) -> None:
        if tid > self.last_tid:
            with self._barrier:
                if self.db is not None:
                    self.db.invalidate(tid, oids)
                self.last_tid = tid
                self._runtime.give_way()
                self.cache.invalidateTransaction(tid, oids)
                self.cache.setLastTid(tid)
    return [(Effects, 'invalidate', invalidate)]


@plant('The mark that a cache file is in use is written, but not synced; its records neither (C10).',
       persistent=True, faults={'stop_client': 1.0, 'power_client': 2.0})
def cache_not_synced() -> list[Patch]:
    return [(CacheFile, 'sync', lambda self: None)]


@plant('After an unclean end the last tid of the header is believed, though the system crashed (C10).')
def crash_not_noticed() -> list[Patch]:
    return [(CacheFile, 'identity', lambda self: b'\x01' * 16)]


@plant('An emptied cache keeps its salt: old records are found again (wrong salt).')
def salt_kept() -> list[Patch]:
    return [(CacheFile, 'new_salt', lambda self: None)]


@plant('A record whose end is told first is entered as current when it comes (C19).')
def end_forgotten() -> list[Patch]:
    store = ClientCache.store
    return [(ClientCache, 'store', lambda self, oid, start, end, data: store(self, oid, start, None, data))]
