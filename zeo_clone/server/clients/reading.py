"""What a client may read: records, what has changed, logs, iterations, blobs.

In: a member and arguments whose types have been checked.  Out: as `methods` says.  Loop thread only; what may
take long runs in a worker thread.
"""
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ZODB.POSException import POSError, POSKeyError

from zeo_clone.server.backend import chronicle
from zeo_clone.server.backend.descriptions import described
from zeo_clone.server.backend.iterators import Iterators
from zeo_clone.server.clients.arguments import is_usual_load
from zeo_clone.server.clients.downloads import size_of_blob
from zeo_clone.server.deferred import Deferred
from zeo_clone.zrpc import batches
from zeo_clone.zrpc.connection import Call

if TYPE_CHECKING:
    from zeo_clone.server.clients.member import Member

#: Bytes of data in one reply to ``load_batch`` at most, unless one object has more.
MAX_LOAD_BATCH = 16 << 20
#: A reply to ``load_batch`` ends after so many seconds (S11): the client asks again for the rest ...
LOAD_BATCH_S = 0.001
#: ... and the clock is looked at after so many loads: a quarter of that time.
LOADS_PER_LOOK = 50
#: Objects of one reply where each load may have to be waited for.
LOADS_AT_ONCE = 100
#: A longer history is looked up in a worker thread.
SHORT_HISTORY = 10


# ---- records ------------------------------------------------------------------------------------

def load_before(member: Member, oid: bytes, tid: bytes) -> Any:
    _count_load(member, oid)
    return member.reader.loadBefore(oid, tid)


def _count_load(member: Member, oid: bytes) -> None:
    member.loads += 1
    member.stats.loads += 1
    member.hot.append(oid)


def usual_load(member: Member, call: Call) -> bool:
    """The call that sites make all the time."""
    message_id, name, args, oneway = call
    if oneway or not is_usual_load(args):
        return False
    member.loads += 1
    member.stats.loads += 1
    member.hot.append(args[0])
    try:
        revision = member.reader.loadBefore(*args)
    except Exception as error:
        member.calls.fail(message_id, name, error)
    else:
        if type(revision) is Deferred:
            member.calls.answer_loaded_with(message_id, name, revision)
        else:
            member.channel.reply_loaded(message_id, revision)
    return True


def load_batch(member: Member, oids: bytes, tid: bytes, size: int) -> Any:
    """The revisions of one object at least, and of more until there are `size` bytes or the time is over, as
    in `batches`.

    Not in parts: a revision that is read in one turn need not be current in the next (C1).
    """
    if member.served.is_distant:
        return _load_batch_later(member, oids, tid, size)
    load = member.reader.loadBefore
    clock = member.server.runtime.monotonic
    until = clock() + LOAD_BATCH_S
    revisions: list[Any] = []
    used = 0
    for at in range(0, len(oids), 8):
        oid = oids[at:at + 8]
        _count_load(member, oid)
        try:
            revision = load(oid, tid)
        except POSKeyError:
            revision = None
        if revision is not None:
            used += len(revision[0])
            if used > MAX_LOAD_BATCH and revisions:
                break  # what is so large travels alone
        revisions.append(revision)
        if used >= min(size, MAX_LOAD_BATCH) or not len(revisions) % LOADS_PER_LOOK and clock() >= until:
            break
    return batches.join(revisions)


def _load_batch_later(member: Member, oids: bytes, tid: bytes, size: int) -> Deferred:
    some = [oids[at:at + 8] for at in range(0, min(len(oids), 8 * LOADS_AT_ONCE), 8)]
    for oid in some:
        _count_load(member, oid)
    result = Deferred()

    def join(revisions: list[Any] | None, error: BaseException | None) -> None:
        used, count = 0, 0
        for revision in revisions or ():
            used += 0 if revision is None else len(revision[0])
            if used > MAX_LOAD_BATCH and count:
                break  # what is so large travels alone
            count += 1
            if used >= min(size, MAX_LOAD_BATCH):
                break
        result.settle(None if revisions is None else batches.join(revisions[:count]), error)

    member.served.load_batch(some, tid).when_settled(join)
    return result


def load_serial(member: Member, oid: bytes, serial: bytes) -> Any:
    _count_load(member, oid)
    return member.backend.load_serial(oid, serial)


def get_tid(member: Member, oid: bytes) -> Any:
    return member.backend.get_tid(oid)


def record_iternext(member: Member, start: bytes | None = None) -> Any:
    return member.backend.method('record_iternext')(start)


# ---- what has changed ---------------------------------------------------------------------------

def last_transaction(member: Member) -> Any:
    return member.served.when_fresh(member.served.audience.last_tid)


def get_invalidations(member: Member, tid: bytes) -> Any:
    return member.served.when_fresh(
        partial(member.served.verification.changes_since, member, tid, member.long_calls.run))


def has_transaction(member: Member, tid: bytes) -> Any:
    return member.served.verification.has_transaction(tid, member.slow)


# ---- logs ---------------------------------------------------------------------------------------

def history(member: Member, oid: bytes, size: int = 1) -> Any:
    if size <= SHORT_HISTORY and not member.served.is_distant:
        try:
            return list(described(member.with_rich, member.backend.chronicle.history, oid, size))
        except POSError:
            raise
        except Exception:  # an extension that the storage cannot read
            pass
    return _in_one_answer(member, member.backend.chronicle.revisions, oid, size)


def history_iterator(member: Member, oid: bytes, size: int) -> Deferred:
    return _iterate_entries(member, member.backend.chronicle.revisions, oid, size)


def undo_log(member: Member, first: int, last: int) -> Deferred:
    return undo_info(member, first, last)


def undo_info(member: Member, first: int = 0, last: int = -20, specification: Any = None) -> Deferred:
    member.backend.method('undoLog')
    return _in_one_answer(member, member.backend.chronicle.undoable, first, last, specification)


def undo_iterator(member: Member, first: int, last: int, specification: Any) -> Deferred:
    member.backend.method('undoLog')
    return _iterate_entries(member, member.backend.chronicle.undoable, first, last, specification)


def entry_batch(member: Member, iterator_id: int, size: int) -> Deferred:
    return member.iterate(Iterators.entries, iterator_id, size, long=True)


def _iterate_entries(member: Member, find_entries: Callable[..., Any], *args: Any) -> Deferred:
    return member.iterate(Iterators.start_entries, described, member.with_rich, find_entries, *args,
                          long=True)


def _in_one_answer(member: Member, find_entries: Callable[..., Any], *args: Any) -> Deferred:
    """For clients that do not ask for batches."""
    calls, with_rich = member.long_calls, member.with_rich
    most = chronicle.OURS if member.is_ours else chronicle.ALL
    return calls.run(lambda: chronicle.in_one_answer(
        described(with_rich, find_entries, *args), most, lambda: calls.gone, with_rich))


# ---- iterations ---------------------------------------------------------------------------------

def iterator_start(member: Member, start: bytes | None, stop: bytes | None) -> Deferred:
    iterator = member.backend.method('iterator')
    member.check_room(long=True)
    return member.iterate(Iterators.start, iterator, start, stop, long=True)


def iterator_next(member: Member, iterator_id: int) -> Deferred:
    return member.iterate(Iterators.next, iterator_id)


def iterator_record_start(member: Member, iterator_id: int, tid: bytes) -> Deferred:
    return member.iterate(Iterators.start_records, iterator_id, tid)


def iterator_record_next(member: Member, iterator_id: int) -> Deferred:
    return member.iterate(Iterators.next_record, iterator_id)


def iterator_gc(member: Member, iterator_ids: list[int]) -> None:
    member.forget_iterators(iterator_ids)


def iterator_batch(member: Member, iterator_id: int, size: int) -> Deferred:
    return member.iterate(Iterators.batch, iterator_id, size)


# ---- blobs --------------------------------------------------------------------------------------

def send_blob(member: Member, oid: bytes, serial: bytes) -> Deferred:
    member.backend.method('loadBlob')
    return member.downloads.request(oid, serial)


def blob_size(member: Member, oid: bytes, serial: bytes) -> Deferred:
    member.backend.method('loadBlob')
    return member.slow(partial(size_of_blob, member.backend.open_blob, oid, serial))
