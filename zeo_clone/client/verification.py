"""Verification: bring a cache up to the state of the server that a link has just found.

A short conversation in the reader's role: the server's last tid is known from register; what changed
since the cache's last tid is asked for.  Four ends: up to date, caught up, started over, refused.
"""
from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ZODB.event import notify
from ZODB.utils import readable_tid_repr, z64

from zeo_clone.client.effects import Effects
from zeo_clone.client.notices import check_invalidation
from zeo_clone.Exceptions import ClientStorageError
from zeo_clone.interfaces import StaleCache
from zeo_clone.zrpc.channel.calls import PendingCall
from zeo_clone.zrpc.channel.client import ClientChannel

log = logging.getLogger(__name__)


class Verification:
    """One verification of one cache against one server."""

    def __init__(self, channel: ClientChannel, effects: Effects, server_tid: bytes,
                 drop_newer: bool, on_verified: Callable[[], None],
                 on_failed: Callable[[Exception], None]) -> None:
        self._channel = channel
        self._effects = effects
        self._server_tid = server_tid
        self._drop_newer = drop_newer
        self._on_verified = on_verified
        self._on_failed = on_failed

    def start(self) -> None:
        """Compare, and ask the server if that is needed."""
        cache = self._effects.cache
        cache_tid = cache.getLastTid()
        if cache_tid == z64 and (len(cache) or self._server_tid != z64):
            # What it has, if anything, cannot be verified; nothing was ever shown to anybody.
            self._effects.start_over(self._server_tid)
            self._on_verified()
        elif cache_tid == self._server_tid:
            self._on_verified()
        elif cache_tid > self._server_tid and self._drop_newer:
            log.warning('the cache is newer than the server (last transaction %s) and is dropped',
                        readable_tid_repr(cache_tid))
            self._start_over()
        elif cache_tid > self._server_tid:
            self._on_failed(self._newer_than_server(cache, cache_tid))
        else:
            self._channel.call_async('getInvalidations', (cache_tid,), self._answered, check_answer)

    def _newer_than_server(self, cache: Any, cache_tid: bytes) -> ClientStorageError:
        path = cache.stats().get('path')
        remedy = f'remove the cache file {path}' if path else 'restart this client'
        remedy += ' (or open it with drop_newer_cache=True)'
        return ClientStorageError(
            f'the client cache is newer ({readable_tid_repr(cache_tid)}) than the server '
            f'({readable_tid_repr(self._server_tid)}): was the server restored from a backup? If so, '
            f'{remedy}; if not, this client talks to a wrong server')

    def _answered(self, call: PendingCall) -> None:
        if call.error is not None:
            self._on_failed(call.error)  # type: ignore[arg-type]
            return
        if call.value is None:
            log.critical('the cache is too old to be verified (last transaction %s) and is dropped',
                        readable_tid_repr(self._effects.cache.getLastTid()))
            self._start_over()
        else:
            self._effects.catch_up(*call.value)
            self._on_verified()

    def _start_over(self) -> None:
        notify(StaleCache(self._effects.storage))
        self._effects.start_over(self._server_tid)
        self._on_verified()


def check_answer(value: object) -> tuple[bytes, list[bytes]] | None:
    """The result of ``getInvalidations``."""
    return None if value is None else check_invalidation(value)  # type: ignore[arg-type]
