"""Verification: bring a cache up to the state of the server that a link has just found.

A short conversation in the reader's role: the server's last tid is known from register; what changed
since the client's last tid is asked for.  Four ends: up to date, caught up, started over, refused.

The client's last tid has to be a transaction of the server's database (C22).  One that only lies among those
may be of a past that is lost: a backup was restored and written to, or it is another database.  Servers
that have `has_transaction` answer for nothing but their own transactions, and tell why they do not answer.
Others answer for any tid in their range; they are asked which transaction they find from there on.

What is not found need not be lost: a pack may have removed it, and a server that is not one of ours may have
told a tid that it had not finished when it was killed.  So "another past" is said only if the client knows
that its last tid was a transaction: it was told by a server that tells its identity, and so true tids; or
there is something in the cache that it wrote.  Otherwise the cache is dropped.
"""
from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from typing import Any

from ZODB.event import notify
from ZODB.utils import readable_tid_repr, z64

from zeo_clone.client.effects import NO_DATABASE, Effects
from zeo_clone.client.notices import check_invalidation
from zeo_clone.Exceptions import ClientStorageError
from zeo_clone.interfaces import StaleCache
from zeo_clone.zrpc.channel.calls import PendingCall
from zeo_clone.zrpc.channel.client import ClientChannel
from zeo_clone.zrpc.offers import HAS_TRANSACTION

log = logging.getLogger(__name__)

#: By this a server says that its transactions can be iterated over.
ITERATION = ('ZODB.interfaces', 'IStorageIteration')
#: The status of a transaction that no pack has been at: none before it is missing.
UNPACKED = ' '


class Verification:
    """One verification of one cache against one server, of which `info` is what ``get_info`` said."""

    def __init__(self, channel: ClientChannel, effects: Effects, server_tid: bytes, info: dict[str, Any],
                 drop_newer: bool, on_verified: Callable[[], None],
                 on_failed: Callable[[Exception], None]) -> None:
        self._channel = channel
        self._effects = effects
        self._tid = effects.last_tid
        self._server_tid = server_tid
        self._database = digest(info.get('database'))
        self._is_exact = HAS_TRANSACTION in info.get('extensions', ())
        self._can_iterate = any(tuple(name) == ITERATION for name in info.get('interfaces', ())
                                if type(name) in (tuple, list))
        self._drop_newer = drop_newer
        self._on_verified = on_verified
        self._on_failed = on_failed

    def start(self) -> None:
        """Compare, and ask the server if that is needed."""
        tid = self._tid
        if tid == z64 and (len(self._effects.cache) or self._server_tid != z64):
            # What it has, if anything, cannot be verified; nothing was ever shown to anybody.
            self._effects.start_over(self._server_tid)
            self._verified()
        elif tid == self._server_tid:
            self._verified()
        elif tid > self._server_tid:
            # Of a database that is known to be the same one the client has seen more than there is now.
            # Another server may be a replica that lags.
            self._another_past(f'is newer ({readable_tid_repr(tid)}) than the server '
                               f'({readable_tid_repr(self._server_tid)})', '',
                               for_sure=self._database == self._effects.database != NO_DATABASE)
        else:
            self._channel.call_async('getInvalidations', (tid,), self._answered, check_answer)

    # ---- the server was asked --------------------------------------------------------------------

    def _answered(self, call: PendingCall) -> None:
        if call.error is not None:
            self._on_failed(call.error)  # type: ignore[arg-type]
        elif call.value is None and self._is_exact:
            self._channel.call_async(HAS_TRANSACTION, (self._tid,), self._judged)
        elif call.value is None:
            self._too_old()
        elif self._is_exact or not self._can_iterate:
            self._catch_up(*call.value)
        else:
            self._search(*call.value)

    def _judged(self, call: PendingCall) -> None:
        """`has_transaction`.  Where that is not known, a different identity decides."""
        known = None if call.error is not None else call.value
        mine, theirs = self._effects.database, self._database
        if known is False or known is None and NO_DATABASE not in (mine, theirs) and mine != theirs:
            self._not_there()
        else:
            self._too_old()

    def _search(self, tid: bytes, oids: list[bytes]) -> None:
        """For a server that knows only ranges: which is the first transaction from the client's last on?"""
        def started(call: PendingCall) -> None:
            if call.error is not None or type(call.value) is not int:
                self._too_old()
                return
            self._channel.call_async('iterator_next', (call.value,), found)
            self._channel.send_async(self._channel.core.send_oneway('iterator_gc', ([call.value],)))

        def found(call: PendingCall) -> None:
            first = call.value if type(call.value) is tuple and len(call.value) == 5 else (None, None)
            if call.error is None and first[0] == self._tid:
                self._catch_up(tid, oids)
            elif call.error is None and first[1] == UNPACKED:
                self._not_there()
            else:
                self._too_old()

        self._channel.call_async('iterator_start', (self._tid, None), started)

    # ---- the ends --------------------------------------------------------------------------------

    def _verified(self) -> None:
        self._effects.verified(self._database)
        self._on_verified()

    def _catch_up(self, tid: bytes, oids: list[bytes]) -> None:
        self._effects.catch_up(tid, oids)
        self._verified()

    def _too_old(self) -> None:
        self._report(logging.CRITICAL, 'the cache is too old to be verified (the server does not know its '
                     'last transaction, %s, any more) and is dropped', readable_tid_repr(self._tid))
        self._start_over()

    def _not_there(self) -> None:
        if self._effects.database == NO_DATABASE and not self._has_record():
            self._too_old()
            return
        self._another_past(f'is of another past: its last transaction ({readable_tid_repr(self._tid)}) never '
                           f'was in the database of the server', ' and written to', for_sure=True)

    def _has_record(self) -> bool:
        """Is there anything in the cache that was written or replaced by the client's last transaction?"""
        return any(self._tid in (start, end) for _, start, end in self._effects.cache.contents())

    def _another_past(self, what: str, and_what: str, for_sure: bool) -> None:
        path = self._effects.cache.stats().get('path')
        if self._drop_newer:
            self._report(logging.WARNING, 'the client cache %s %s, and is dropped', path or '(temporary)',
                         what)
            self._start_over()
            return
        remedy = f'remove the cache file {path}' if path else 'restart this client'
        error = ClientStorageError(
            f'the client cache {what}: was the server restored from a backup{and_what}? If so, {remedy} (or '
            f'open it with drop_newer_cache=True); if not, this client talks to a wrong server')
        if for_sure:
            self._effects.refuse(error)
        self._on_failed(error)

    def _start_over(self) -> None:
        try:
            notify(StaleCache(self._effects.storage))
        except Exception as error:  # it was for their information
            self._report(logging.ERROR, 'a subscriber of StaleCache failed', error=error)
        self._effects.start_over(self._server_tid)
        self._verified()

    def _report(self, level: int, text: str, *args: object, error: Exception | None = None) -> None:
        self._effects.throttle.report(log, level, text, '', text, *args, error=error)


def digest(database: str | None) -> bytes:
    """The identity of a database as a cache keeps it."""
    if not database:
        return NO_DATABASE
    return hashlib.blake2b(database.encode('utf-8', 'surrogatepass'), digest_size=len(NO_DATABASE)).digest()


def check_answer(value: object) -> tuple[bytes, list[bytes]] | None:
    """The result of ``getInvalidations``."""
    return None if value is None else check_invalidation(value)  # type: ignore[arg-type]
