"""What a client may call: the table of methods, and what each of them does.

In: a session and arguments whose types have been checked.  Out: the value of the reply, or a `Deferred`
one, or an exception for the client.  Loop thread only; what may take long runs in a worker thread.  This
module knows no bytes and no connection.
"""
from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ZODB.POSException import POSError, POSKeyError, ReadOnlyError
from zope.interface import providedBy

from zeo_clone.server.backend import chronicle, numbers
from zeo_clone.server.backend.absence import changed_between
from zeo_clone.server.backend.descriptions import described
from zeo_clone.server.backend.iterators import Iterators
from zeo_clone.server.clients import arguments as a
from zeo_clone.server.clients.downloads import size_of_blob
from zeo_clone.server.clients.listen import origin
from zeo_clone.server.deferred import Deferred, in_parts
from zeo_clone.server.vocabulary import Meta, Operation
from zeo_clone.zrpc import batches

if TYPE_CHECKING:
    from zeo_clone.server.clients.session import Session

log = logging.getLogger(__name__)

#: Oids handed out by one call.
MAX_NEW_OIDS = 100
#: Methods beyond ZEO's, for clients that know them: ``iterator_batch(iterator id, bytes)``.
#: ``heartbeat(seconds)``: as ping, and the client will be heard of at least this often.
#: ``identify(token, number)``: who the client is, and the number of its last transaction so far;
#: ``commit_outcome(number)``: what became of one of its transactions, as in `outcomes` (C11).
#: ``load_batch(oids, tid, bytes)``: loadBefore of many objects.
#: ``has_transaction(tid)``: is it one of the storage's, False if it never was, None if that is not known; who
#: lists it answers ``getInvalidations`` for nothing but transactions of the storage (C22).
#: ``blob_size(oid, serial)``: bytes of a blob (B11).
#: ``undo_iterator(first, last, specification)`` and ``history_iterator(oid, size)``: the id of an iterator;
#: ``entry_batch(iterator id, bytes)``: some of its entries (L11).
#: ``rich_values()``: from now on the client may be sent values of `rich`, and extensions as they are stored.
EXTENSIONS = ['iterator_batch', 'heartbeat', 'commit_outcome', 'load_batch', 'has_transaction', 'blob_size',
              'entry_batch', 'rich_values']
#: Bytes of data in one reply to ``load_batch`` at most, unless one object has more.
MAX_LOAD_BATCH = 16 << 20
#: A reply to ``load_batch`` ends after so many seconds (S11): the client asks again for the rest ...
LOAD_BATCH_S = 0.001
#: ... and the clock is looked at after so many loads: a quarter of that time.
LOADS_PER_LOOK = 50
#: Arguments of a method that a storage itself offers (``getExtensionMethods``).
MAX_EXTENSION_ARGS = 10
#: A longer history is looked up in a worker thread.
SHORT_HISTORY = 10
_new = tuple.__new__  # makes a NamedTuple in a third of the time


class Kind(enum.Enum):
    """How a method is called and what happens when it fails."""

    CALL = enum.auto()      # two-way; the client gets the exception
    ONEWAY = enum.auto()    # an exception closes the connection
    BUFFERED = enum.auto()  # one-way, part of a transaction: a bad argument is told at the vote


class Method(NamedTuple):
    """An entry of the table: the checks of all arguments, of which the first `required` must be there.
    """

    function: Callable[..., Any]
    kind: Kind
    required: int
    checks: tuple[Callable[[Any], Any], ...]


def _call(function: Callable[..., Any], *checks: Callable[[Any], Any], optional: int = 0) -> Method:
    return Method(function, Kind.CALL, len(checks) - optional, checks)


def _oneway(function: Callable[..., Any], *checks: Callable[[Any], Any], optional: int = 0) -> Method:
    return Method(function, Kind.ONEWAY, len(checks) - optional, checks)


def _buffered(function: Callable[..., Any], *checks: Callable[[Any], Any]) -> Method:
    return Method(function, Kind.BUFFERED, len(checks), checks)


# ---- the session --------------------------------------------------------------------------------

def register(session: Session, storage_id: str, read_only: bool = False) -> bytes | None:
    tid = session.register(storage_id, read_only)
    return None if session.is_z4 else tid


def get_auth_protocol(session: Session) -> None:
    """Nobody has to log in."""


def set_client_label(session: Session, label: str) -> None:
    session.set_label(label)


def ping(session: Session) -> None:
    """That it is answered is the answer."""


def identify(session: Session, token: bytes, number: int) -> None:
    session.identify(token, number)


def commit_outcome(session: Session, number: int) -> tuple[str, bytes | None]:
    return session.commit_outcome(number)


def heartbeat(session: Session, interval: float) -> None:
    session.expect_beats(interval)


def rich_values(session: Session) -> None:
    session.take_rich_values()


def get_info(session: Session) -> dict[str, Any]:
    storage = session.storage
    info = session.served.info()
    info['name'] = storage.getName()
    info['supportsUndo'] = bool(getattr(storage, 'supportsUndo', bool)())
    if session.is_z4:
        info['extensionMethods'] = get_extension_methods(session)
    info['extensions'] = EXTENSIONS
    info['instance'] = session.server.instance
    info['frame_limit'] = session.server.frame_limit
    database = session.served.database
    if database is not None:
        info['database'] = database
    info['supports_record_iternext'] = hasattr(storage, 'record_iternext')
    info['interfaces'] = tuple((interface.__module__, interface.__name__)
                               for interface in providedBy(storage).__iro__)
    return info


def get_extension_methods(session: Session) -> dict[str, None]:
    return dict.fromkeys(session.served.extension_methods)


def server_status(session: Session) -> dict[str, Any]:
    return session.served.status()


# ---- reading ------------------------------------------------------------------------------------

def load_before(session: Session, oid: bytes, tid: bytes) -> Any:
    _count_load(session, oid)
    return session.reader.loadBefore(oid, tid)


def _count_load(session: Session, oid: bytes) -> None:
    session.loads += 1
    session.served.stats.loads += 1
    session.served.hot.recent.append(oid)


def load_batch(session: Session, oids: bytes, tid: bytes, size: int) -> tuple[bytes, bytes]:
    """The revisions of one object at least, and of more until there are `size` bytes or the time is over, as
    in `batches`.

    Not in parts: a revision that is read in one turn need not be current in the next (C1).
    """
    load = session.reader.loadBefore
    clock = session.server.runtime.monotonic
    until = clock() + LOAD_BATCH_S
    revisions: list[Any] = []
    used = 0
    for at in range(0, len(oids), 8):
        oid = oids[at:at + 8]
        _count_load(session, oid)
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


def load_serial(session: Session, oid: bytes, serial: bytes) -> Any:
    _count_load(session, oid)
    return session.storage.loadSerial(oid, serial)


def get_tid(session: Session, oid: bytes) -> Any:
    return session.storage.getTid(oid)


def last_transaction(session: Session) -> bytes:
    return session.served.last_tid()


def get_invalidations(session: Session, tid: bytes) -> Any:
    served = session.served
    if served.knows(tid) or not served.remembers(tid):
        return _verify(session, tid, served.invalidations_after(tid))
    # The storage itself knows.  What is committed meanwhile is in the history.
    until, result = served.last_tid(), Deferred()
    session.server.throttle.report(log, logging.INFO, 'away', origin(session.name), '%s: was away for long; '
                                   'looking for changes in storage %r', session.name, served.name, burst=5)
    session.long_calls.run(partial(changed_between, served.storage, tid, until)).when_settled(
        partial(_add_recent, session, tid, until, result))
    return result


def _verify(session: Session, tid: bytes, parts: Generator[None, None, Any]) -> Generator[None, None, Any]:
    answer = yield from parts
    session.served.verified(session.name, tid, answer is not None)
    return answer


def _add_recent(session: Session, tid: bytes, until: bytes, result: Deferred, oids: list[bytes] | None,
                error: BaseException | None) -> None:
    served = session.served
    if oids is None:
        served.verified(session.name, tid, False)
        result.settle(None, error)
    else:
        parts = _verify(session, tid, served.invalidations_after(until, oids))
        in_parts(served.loop, parts).when_settled(result.settle)


def has_transaction(session: Session, tid: bytes) -> Any:
    answer = session.served.has_transaction(tid)
    return session.slow(answer) if callable(answer) else answer


def history(session: Session, oid: bytes, size: int = 1) -> Any:
    if size <= SHORT_HISTORY:
        try:
            return list(described(session.with_rich, chronicle.history, session.storage, oid, size))
        except POSError:
            raise
        except Exception:  # an extension that the storage cannot read
            pass
    return _in_one_answer(session, chronicle.revisions, oid, size)


def history_iterator(session: Session, oid: bytes, size: int) -> Deferred:
    return session.iterate(Iterators.start_entries, described, session.with_rich, chronicle.revisions,
                           session.storage, oid, size, long=True)


def entry_batch(session: Session, iterator_id: int, size: int) -> Deferred:
    return session.iterate(Iterators.entries, iterator_id, size, long=True)


def _in_one_answer(session: Session, find_entries: Callable[..., Any], *args: Any) -> Deferred:
    """For clients that do not ask for batches."""
    calls, with_rich = session.long_calls, session.with_rich
    most = chronicle.OURS if session.is_ours else chronicle.ALL
    return calls.run(lambda: chronicle.in_one_answer(
        described(with_rich, find_entries, session.storage, *args), most, lambda: calls.gone, with_rich))


def record_iternext(session: Session, start: bytes | None = None) -> Any:
    return session.optional('record_iternext')(start)


def iterator_start(session: Session, start: bytes | None, stop: bytes | None) -> Deferred:
    session.optional('iterator')
    session.check_room(long=True)
    return session.iterate(Iterators.start, session.storage, start, stop, long=True)


def iterator_next(session: Session, iterator_id: int) -> Deferred:
    return session.iterate(Iterators.next, iterator_id)


def iterator_record_start(session: Session, iterator_id: int, tid: bytes) -> Deferred:
    return session.iterate(Iterators.start_records, iterator_id, tid)


def iterator_record_next(session: Session, iterator_id: int) -> Deferred:
    return session.iterate(Iterators.next_record, iterator_id)


def iterator_gc(session: Session, iterator_ids: list[int]) -> None:
    session.forget_iterators(iterator_ids)


def iterator_batch(session: Session, iterator_id: int, size: int) -> Deferred:
    return session.iterate(Iterators.batch, iterator_id, size)


def send_blob(session: Session, oid: bytes, serial: bytes) -> Deferred:
    session.optional('loadBlob')
    return session.downloads.request(oid, serial)


def blob_size(session: Session, oid: bytes, serial: bytes) -> Deferred:
    find = session.optional('loadBlob')
    return session.slow(partial(size_of_blob, session.server.runtime, find, oid, serial))


def undo_log(session: Session, first: int, last: int) -> Deferred:
    return undo_info(session, first, last)


def undo_info(session: Session, first: int = 0, last: int = -20, specification: Any = None) -> Deferred:
    session.optional('undoLog')
    return _in_one_answer(session, chronicle.undoable, first, last, specification)


def undo_iterator(session: Session, first: int, last: int, specification: Any) -> Deferred:
    session.optional('undoLog')
    return session.iterate(Iterators.start_entries, described, session.with_rich, chronicle.undoable,
                           session.storage, first, last, specification, long=True)


# ---- writing ------------------------------------------------------------------------------------

def new_oids(session: Session, count: int = MAX_NEW_OIDS) -> list[bytes]:
    if session.read_only:
        raise ReadOnlyError()
    return numbers.new_oids(session.storage, min(count, MAX_NEW_OIDS))


def tpc_begin(session: Session, transaction_id: Any, user: str | bytes, description: str | bytes,
              extension: dict[Any, Any] | bytes, tid: bytes | None = None, status: str = ' ') -> None:
    session.transactor.begin(_new(Meta, (transaction_id, user, description, extension, tid, status)))
    session.count_meta()


def storea(session: Session, oid: bytes, serial: bytes, data: bytes, transaction_id: Any) -> None:
    session.served.stats.stores += 1
    session.transactor.add(transaction_id, Operation('store', oid, serial, data))


def restorea(session: Session, oid: bytes, serial: bytes, data: bytes | None, previous: bytes | None,
             transaction_id: Any) -> None:
    session.served.stats.stores += 1
    session.transactor.add(transaction_id, Operation('restore', oid, serial, data, previous))


def check_current(session: Session, oid: bytes, serial: bytes, transaction_id: Any) -> None:
    session.transactor.add(transaction_id, Operation('check', oid, serial))


def delete_object(session: Session, oid: bytes, serial: bytes, transaction_id: Any) -> None:
    session.transactor.add(transaction_id, Operation('delete', oid, serial))


def store_blob_start(session: Session) -> None:
    session.transactor.start_blob()


def store_blob_chunk(session: Session, chunk: bytes) -> None:
    session.transactor.write_blob(chunk)


def store_blob_end(session: Session, oid: bytes, serial: bytes, data: bytes,
                   transaction_id: Any) -> None:
    session.served.stats.stores += 1
    session.transactor.end_blob(transaction_id, Operation('blob', oid, serial, data))


def store_blob_shared(session: Session, oid: bytes, serial: bytes, data: bytes, name: str,
                      transaction_id: Any) -> None:
    session.served.stats.stores += 1
    session.transactor.share_blob(transaction_id, Operation('blob', oid, serial, data, name))


def undoa(session: Session, undo_id: bytes, transaction_id: Any) -> None:
    session.transactor.add(transaction_id, Operation('undo', extra=undo_id))


def vote(session: Session, transaction_id: Any) -> Deferred:
    return session.transactor.vote(transaction_id)


def tpc_finish(session: Session, transaction_id: Any) -> bytes:
    return session.transactor.finish(transaction_id)


def tpc_abort(session: Session, transaction_id: Any) -> None:
    session.transactor.abort(transaction_id)


def pack(session: Session, time: float, wait: bool = True) -> Deferred | None:
    done = session.pack(time)
    if wait:
        return done
    done.when_settled(partial(session.report_background, 'pack'))
    return None


def call_extension(name: str, session: Session, *args: Any) -> Deferred:
    """A method that the storage itself offers to clients, with the plain values that they sent."""
    return session.long_calls.run(partial(getattr(session.storage, name), *args))


def find(session: Session, name: str) -> Method | None:
    """The method `name` as far as `session` may call it."""
    method = METHODS.get(name)
    if method is None and session.registered and name in session.served.extension_methods:
        return Method(partial(call_extension, name), Kind.CALL, 0, (a.anything,) * MAX_EXTENSION_ARGS)
    return method


METHODS: dict[str, Method] = {
    'register': _call(register, a.name, a.flag, optional=1),
    'getAuthProtocol': _call(get_auth_protocol),
    'set_client_label': _oneway(set_client_label, a.label),
    'ping': _call(ping),
    'heartbeat': _call(heartbeat, a.seconds),
    'identify': _call(identify, a.token, a.integer),
    'rich_values': _oneway(rich_values),
    'commit_outcome': _call(commit_outcome, a.integer),
    'get_info': _call(get_info),
    'getExtensionMethods': _call(get_extension_methods),
    'server_status': _call(server_status),

    'loadBefore': _call(load_before, a.oid, a.tid),
    'load_batch': _call(load_batch, a.oids, a.tid, a.size),
    'loadSerial': _call(load_serial, a.oid, a.tid),
    'getTid': _call(get_tid, a.oid),
    'lastTransaction': _call(last_transaction),
    'getInvalidations': _call(get_invalidations, a.tid),
    'has_transaction': _call(has_transaction, a.tid),
    'history': _call(history, a.oid, a.count, optional=1),
    'record_iternext': _call(record_iternext, a.optional_tid, optional=1),
    'sendBlob': _call(send_blob, a.oid, a.tid),
    'blob_size': _call(blob_size, a.oid, a.tid),
    'iterator_start': _call(iterator_start, a.optional_tid, a.optional_tid),
    'iterator_next': _call(iterator_next, a.integer),
    'iterator_record_start': _call(iterator_record_start, a.integer, a.tid),
    'iterator_record_next': _call(iterator_record_next, a.integer),
    'iterator_gc': _oneway(iterator_gc, a.ids),
    'iterator_batch': _call(iterator_batch, a.integer, a.size),
    'undoLog': _call(undo_log, a.count, a.count),
    'undoInfo': _call(undo_info, a.count, a.count, a.specification, optional=3),
    'undo_iterator': _call(undo_iterator, a.count, a.count, a.specification),
    'history_iterator': _call(history_iterator, a.oid, a.count),
    'entry_batch': _call(entry_batch, a.integer, a.size),

    'new_oids': _call(new_oids, a.count, optional=1),
    'tpc_begin': _oneway(tpc_begin, a.transaction_id, a.text, a.text, a.extension, a.optional_tid,
                         a.status, optional=2),
    'storea': _buffered(storea, a.written_oid, a.serial, a.record, a.transaction_id),
    'restorea': _buffered(restorea, a.written_oid, a.serial, a.data, a.optional_tid, a.transaction_id),
    'checkCurrentSerialInTransaction': _buffered(check_current, a.written_oid, a.serial, a.transaction_id),
    'deleteObject': _buffered(delete_object, a.written_oid, a.serial, a.transaction_id),
    'storeBlobStart': _buffered(store_blob_start),
    'storeBlobChunk': _buffered(store_blob_chunk, a.record),
    'storeBlobEnd': _buffered(store_blob_end, a.written_oid, a.serial, a.record, a.transaction_id),
    'storeBlobShared': _buffered(store_blob_shared, a.written_oid, a.serial, a.record, a.name,
                                 a.transaction_id),
    'undoa': _buffered(undoa, a.undo_id, a.transaction_id),
    'vote': _call(vote, a.transaction_id),
    'tpc_finish': _call(tpc_finish, a.transaction_id),
    'tpc_abort': _call(tpc_abort, a.transaction_id),
    'pack': _call(pack, a.seconds, a.flag, optional=1),
}
