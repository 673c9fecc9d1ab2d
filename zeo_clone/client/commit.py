"""Two-phase commit on the client: one object per phase.

An application's thread goes through *begun*, *voted* and the end; what a phase may not do, it does not
have.  A transaction belongs to the link on which it began (a later link can only refuse it).  The cache
learns of it in one step, when the reply to ``tpc_finish`` is processed (C8).
"""
from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from itertools import islice
from typing import Any, NamedTuple

from ZODB.POSException import ConflictError, StorageTransactionError

from zeo_clone.client.caching import Cache
from zeo_clone.client.effects import Effects
from zeo_clone.client.link import Identity, Link
from zeo_clone.client.notices import check_oids, is_oid, is_tid
from zeo_clone.client.outcome import MAX_COMPARED, Doubtful, Inquiry
from zeo_clone.Exceptions import (
    ClientDisconnected,
    CommitOutcomeUnknown,
    UnrecognizedResult,
)
from zeo_clone.loop.runtime import Runtime
from zeo_clone.zrpc.channel.client import ClientChannel
from zeo_clone.zrpc.extensions import to_send
from zeo_clone.zrpc.offers import RICH_VALUES

log = logging.getLogger(__name__)

#: Data of an own transaction kept for the cache, in bytes; of a larger one only the oids are kept.
KEPT_DATA = 16 << 20


class Written:
    """What a transaction has written: for each oid the data, or None if only the server knows them."""

    def __init__(self) -> None:
        self._data: dict[bytes, bytes | None] = {}
        self.bases: dict[bytes, bytes] = {}  # oid: the serial that a stored record replaces
        self._size = 0

    def add(self, oid: bytes, data: bytes | None) -> None:
        """`oid` has been written."""
        if data is not None:
            self._size += len(data)
            if self._size > KEPT_DATA:
                data = None
        self._data[oid] = data

    def records(self, changed: list[bytes]) -> list[tuple[bytes, bytes | None]]:
        """As ``IClientCache.applyCommit`` takes them; the server has changed the data of `changed`."""
        data = {**self._data, **dict.fromkeys(changed)} if changed else self._data
        return list(data.items())


#: ``resolve(oid, committed serial, serial that was read, data) -> data``; raises ConflictError.
Resolve = Callable[[bytes, bytes, bytes, bytes], bytes]


class Begun:
    """After tpc_begin: writes are sent and remembered."""

    def __init__(self, link: Link, transaction: Any, number: int) -> None:
        self.link = link
        self.transaction = transaction
        self.number = number
        self.blobs: list[tuple[bytes, str]] = []  # oid and path of files that wait for the end
        self._channel = link.channel
        self._written = Written()

    def begin(self, tid: bytes | None, status: str) -> None:
        """Announce the transaction to the server."""
        meta = self.transaction
        extension = to_send(meta, self.link.offers(RICH_VALUES))
        self._channel.send('tpc_begin', (self.number, meta.user, meta.description, extension, tid, status))

    def store(self, oid: bytes, serial: bytes, data: bytes) -> None:
        """Write an object.  Raises `MessageTooLarge`."""
        if type(oid) is type(serial) is type(data) is bytes and len(oid) == len(serial) == 8:
            self._channel.store(oid, serial, data, self.number)
            self._written.add(oid, data)
            if len(self._written.bases) < MAX_COMPARED:
                self._written.bases[oid] = serial
        else:
            self.write('storea', oid, data, serial, data)  # the server will say what is wrong with it

    def write(self, verb: str, oid: bytes, data: bytes | None, *args: Any) -> None:
        """Send a verb that changes `oid`: ``verb(oid, *args, number)``.  Raises `MessageTooLarge`."""
        for arg in args:
            if type(arg) is bytes:
                self.check(oid, arg)
        self._channel.send(verb, (oid, *args, self.number))
        self._written.add(oid, data)

    def check(self, oid: bytes, data: bytes) -> None:
        """Raises `MessageTooLarge` if the server does not take a record of this size."""
        self._channel.core.check_record(oid, data)

    def send(self, verb: str, *args: Any) -> None:
        """Send a verb that changes what only the server knows, or nothing."""
        self._channel.send(verb, (*args, self.number))

    def send_raw(self, verb: str, *args: Any) -> None:
        """Send a verb without the transaction's number."""
        self._channel.send(verb, args)

    def vote(self, effects: Effects, resolve: Resolve) -> Voted:
        """Have the server carry the writes out.  Raises what they raise.

        A server that leaves conflicts to its clients answers with them: they are resolved here, stored
        again, and voted on again.
        """
        changed: list[bytes] = []
        try:
            while True:
                oids, conflicts, tid = self._ask_for_vote(effects.cache)
                changed += oids
                for oid, serials, data in conflicts:
                    resolved = resolve(oid, serials[0], serials[1], data)
                    self.write('storea', oid, None, serials[0], resolved)
                    changed.append(oid)
                    self._written.bases.pop(oid, None)
                if not conflicts:
                    break
        except ConflictError as error:
            if type(error.oid) is bytes and len(error.oid) == 8:
                effects.cache.invalidate(error.oid, None)  # C12: a retry must not meet it again
            raise
        bases = self._written.bases
        if changed:
            changed = list(dict.fromkeys(changed))
            bases = {oid: base for oid, base in bases.items() if oid not in changed}
        return Voted(self, self._channel, self._written.records(changed), changed, bases, tid)

    def _ask_for_vote(self, cache: Cache) -> Any:
        if cache.late:  # while the server has its hands full
            return self._channel.call_and(cache.write_late, 'vote', (self.number,), check_vote)
        return self._channel.call('vote', (self.number,), check_vote)

    def abort(self) -> None:
        """Have the server forget it."""
        abort(self._channel, self.number)


class Voted:
    """After tpc_vote: only finish and abort are left."""

    def __init__(self, begun: Begun, channel: ClientChannel, records: list[tuple[bytes, bytes | None]],
                 changed: list[bytes], bases: dict[bytes, bytes], tid: bytes | None) -> None:
        self.link = begun.link
        self.transaction = begun.transaction
        self.number = begun.number
        self.blobs = begun.blobs
        self.changed = changed
        self._channel = channel
        self._records = records
        self._bases = bases
        self.tid = tid  # which it will get, if the server has said so

    def finish(self, effects: Effects, callback: Callable[[bytes], Any] | None,
               inquire: Inquire) -> bytes:
        """Commit.  All effects have taken place when it returns the tid.

        The one border at which whatever goes wrong with a commit becomes one of three things (C24): the tid;
        `ClientDisconnected`, because nothing was committed for sure; or `CommitOutcomeUnknown`.
        """
        self._channel.check()  # nothing has been sent: what it raises is true
        try:
            return self._finish(effects, callback, inquire)
        except CommitOutcomeUnknown:
            self._forget(effects)
            raise

    def _finish(self, effects: Effects, callback: Callable[[bytes], Any] | None,
                inquire: Inquire) -> bytes:
        committed: list[bytes] = []

        def processed(tid: Any) -> bytes:
            if not is_tid(tid) or tid <= effects.last_tid:
                raise UnrecognizedResult(
                    'the server answered tpc_finish with something that is no new tid')
            committed.append(tid)
            effects.finish(tid, self._records, callback)
            return tid  # type: ignore[no-any-return]

        try:
            return self._channel.call('tpc_finish', (self.number,), processed)  # type: ignore[no-any-return]
        except UnrecognizedResult as error:
            raise CommitOutcomeUnknown(
                f'the server answered tpc_finish with nonsense: the transaction may or may not be '
                f'committed. Look at the data before you repeat it ({error})') from error
        except Exception as error:
            # The server may have failed as well: then this link still has the transaction, in a state that
            # nobody knows.  The next one begins with a verification, and the server aborts what it can.
            with contextlib.suppress(Exception):
                self.link.fail(error)
            if committed:
                log.warning('transaction %s is committed; then the client failed: %s', committed[0].hex(),
                            error)
                if effects.last_tid >= committed[0]:
                    return committed[0]
            try:  # also of one that is committed, so that the next link has been verified
                tid = inquire(self._doubtful()).find_out(error)
            except (ClientDisconnected, CommitOutcomeUnknown):
                if not committed:
                    raise
                tid = committed[0]
                self._forget(effects)
            effects.finish_late(tid, callback)
            return tid

    def _forget(self, effects: Effects) -> None:
        effects.forget(oid for oid, _ in self._records)

    def _doubtful(self) -> Doubtful:
        oids = dict.fromkeys((*self._bases, *(oid for oid, _ in islice(self._records, MAX_COMPARED))))
        return Doubtful(self.number, self.link, self.tid, {oid: self._bases.get(oid) for oid in oids})

    def abort(self) -> None:
        """Have the server forget it."""
        abort(self._channel, self.number)


Phase = Begun | Voted
#: Makes an inquiry about a transaction.
Inquire = Callable[[Doubtful], Inquiry]


def abort(channel: ClientChannel, number: int) -> None:
    """Have the server forget a transaction; a lost connection has done so already."""
    try:
        channel.call('tpc_abort', (number,))
    except ClientDisconnected:
        pass


class Vote(NamedTuple):
    """The result of ``vote``: oids whose data the server has changed; conflicts to be resolved here, ``(oid,
    (committed serial, serial that was read), data)``; the tid that the transaction will get, or None."""

    changed: list[bytes]
    conflicts: list[tuple[bytes, tuple[bytes, bytes], bytes]]
    tid: bytes | None


def check_vote(value: Any) -> Vote:
    """The result of ``vote``.  Only servers of this package tell a tid: the last item is ``{'tid': tid}``."""
    if value is None:
        return Vote([], [], None)
    if type(value) not in (list, tuple):
        raise UnrecognizedResult('the server answered vote with something that is no list')
    tid = None
    if value and type(value[-1]) is dict and len(value[-1]) == 1:
        tid, value = value[-1].get('tid'), value[:-1]
        if not is_tid(tid):
            raise UnrecognizedResult('the server answered vote with something that is no tid')
    if not value:
        return Vote([], [], tid)
    return Vote(check_oids([item for item in value if type(item) is not dict]),
                [_check_conflict(item) for item in value if type(item) is dict], tid)


def _check_conflict(item: Any) -> tuple[bytes, tuple[bytes, bytes], bytes]:
    oid, serials, data = (item.get(key) for key in ('oid', 'serials', 'data'))
    if type(serials) in (tuple, list) and len(serials) == 2 and is_oid(oid) \
            and all(map(is_tid, serials)) and type(data) is bytes:
        return oid, (serials[0], serials[1]), data
    raise UnrecognizedResult('the server answered vote with something that is no conflict')


class Committing:
    """At most one transaction at a time: who has the commit lock, and in which phase."""

    def __init__(self, runtime: Runtime, identity: Identity, patience_s: float) -> None:
        self._lock = runtime.lock()  # held from tpc_begin to the end of the transaction
        self._ident = runtime.get_ident
        self._thread: int | None = None  # that has begun the last one
        self._patience_s = patience_s
        self._identity = identity
        self.phase: Phase | None = None

    def begin(self, transaction: Any, get_link: Callable[[], Link], tid: bytes | None,
              status: str) -> None:
        """Wait for the previous transaction's end, then begin."""
        phase, thread = self.phase, self._ident()
        if phase is not None and phase.transaction is transaction:
            raise StorageTransactionError('Duplicate tpc_begin calls for same transaction')
        if phase is not None and thread == self._thread:
            self._wait_for_oneself()
        else:
            self._lock.acquire()
        self._thread = thread
        try:
            begun = Begun(get_link(), transaction, self._identity.next_number())
            begun.begin(tid, status)
        except BaseException:
            self._lock.release()
            raise
        self.phase = begun

    def _wait_for_oneself(self) -> None:
        """The thread that waits would have to end the transaction, unless it has left that to another one."""
        if not self._lock.acquire(timeout=self._patience_s):
            raise StorageTransactionError(
                'this thread has begun a transaction in this storage and has not ended it, so a second one '
                'would wait for ever. An undo and a change of the same database are two transactions: commit '
                'one before you begin the other')

    def begun(self, transaction: Any) -> Begun:
        """The phase *begun* of `transaction`."""
        phase = self.phase
        if type(phase) is not Begun or phase.transaction is not transaction:
            raise StorageTransactionError(
                'not the transaction that is being committed, or it has voted already', transaction)
        return phase

    def voted(self, transaction: Any) -> Voted:
        """The phase *voted* of `transaction`."""
        phase = self.phase
        if type(phase) is not Voted or phase.transaction is not transaction:
            raise StorageTransactionError(
                'not the transaction that is being committed, or it has not voted yet', transaction)
        return phase

    def end(self) -> None:
        """The transaction is over."""
        self.phase = None
        self._lock.release()
