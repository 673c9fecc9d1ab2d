"""What a client may call: the tables of methods, and what those do that are about the client itself.

In: a newcomer or a member, and arguments whose types have been checked.  Out: the value of the reply, or a
`Deferred` one, or a generator that returns it, or an exception for the client.  Loop thread only.  This
module knows no bytes and no connection.  What most calls are has a fast path, `usual`, beside its general
twin.
"""
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from zeo_clone.server.clients import arguments as a
from zeo_clone.server.clients import reading as r
from zeo_clone.server.clients import writing as w
from zeo_clone.server.deferred import Deferred
from zeo_clone.server.vocabulary import Kind, Method, Refused
from zeo_clone.zrpc.connection import Call
from zeo_clone.zrpc.offers import OFFERS

if TYPE_CHECKING:
    from zeo_clone.server.clients.member import Member
    from zeo_clone.server.clients.session import Newcomer

#: Arguments of a method that a storage itself offers (``getExtensionMethods``).
MAX_EXTENSION_ARGS = 10

Check = Callable[[Any], Any]
Usual = Callable[[Any, Call], bool]


def _call(function: Callable[..., Any], *checks: Check, optional: int = 0, usual: Usual | None = None
          ) -> Method:
    return Method(function, Kind.CALL, len(checks) - optional, checks, usual)


def _oneway(function: Callable[..., Any], *checks: Check, optional: int = 0, usual: Usual | None = None
            ) -> Method:
    return Method(function, Kind.ONEWAY, len(checks) - optional, checks, usual)


def _buffered(function: Callable[..., Any], *checks: Check, usual: Usual | None = None) -> Method:
    return Method(function, Kind.BUFFERED, len(checks), checks, usual)


# ---- before it has a storage ----------------------------------------------------------------------

def register(newcomer: Newcomer, storage_id: str, read_only: bool = False) -> Any:
    return newcomer.register(storage_id, read_only)


def get_auth_protocol(_: object) -> None:
    """Nobody has to log in."""


NEWCOMERS: dict[str, Method] = {
    'register': _call(register, a.name, a.flag, optional=1),
    'getAuthProtocol': _call(get_auth_protocol),
}


# ---- the client itself ----------------------------------------------------------------------------

def register_again(member: Member, storage_id: str, read_only: bool = False) -> None:
    raise Refused(f'this connection is registered for storage {member.served.name!r} already')


def set_client_label(member: Member, label: str) -> None:
    member.peer.set_label(label)


def ping(member: Member) -> Any:
    """That it is answered is the answer: all that was committed before has been told."""
    return member.served.when_current(_pong)


def _pong() -> None:
    """The answer to `ping`."""


def identify(member: Member, token: bytes, number: int) -> None:
    member.identify(token, number)


def commit_outcome(member: Member, number: int) -> Any:
    return member.commit_outcome(number)


def heartbeat(member: Member, interval: float, told: dict[str, Any] | None = None) -> None:
    member.session.pulse.expect(interval)
    if told is not None:
        member.told = told


def rich_values(member: Member) -> None:
    member.take_rich_values()


def get_info(member: Member) -> dict[str, Any]:
    info = {**member.backend.info(), **member.backend.describe()}
    if member.is_z4:
        info['extensionMethods'] = get_extension_methods(member)
    info['extensions'] = OFFERS
    info['instance'] = member.served.instance or member.server.instance
    info['frame_limit'] = member.server.frame_limit
    database = member.backend.database
    if database is not None:
        info['database'] = database
    return info


def get_extension_methods(member: Member) -> dict[str, None]:
    return dict.fromkeys(member.backend.abilities.extension_methods)


def server_status(member: Member) -> dict[str, Any]:
    return member.served.status()


# ---- what the storage itself offers -----------------------------------------------------------------

def call_extension(name: str, member: Member, *args: Any) -> Deferred:
    """A method that the storage itself offers to clients, with the plain values that they sent."""
    return member.long_calls.run(partial(member.backend.extension(name), *args))


def find(member: Member, name: str) -> Method | None:
    """The method `name` of the storage of `member`, if it offers it."""
    if name not in member.backend.abilities.extension_methods:
        return None
    return Method(partial(call_extension, name), Kind.CALL, 0, (a.anything,) * MAX_EXTENSION_ARGS)


METHODS: dict[str, Method] = {
    'register': _call(register_again, a.name, a.flag, optional=1),
    'getAuthProtocol': _call(get_auth_protocol),
    'set_client_label': _oneway(set_client_label, a.label),
    'ping': _call(ping),
    'heartbeat': _call(heartbeat, a.seconds, a.told, optional=1),
    'identify': _call(identify, a.token, a.integer),
    'rich_values': _oneway(rich_values),
    'commit_outcome': _call(commit_outcome, a.integer),
    'get_info': _call(get_info),
    'getExtensionMethods': _call(get_extension_methods),
    'server_status': _call(server_status),

    'loadBefore': _call(r.load_before, a.oid, a.tid, usual=r.usual_load),
    'load_batch': _call(r.load_batch, a.oids, a.tid, a.size),
    'loadSerial': _call(r.load_serial, a.oid, a.tid),
    'getTid': _call(r.get_tid, a.oid),
    'lastTransaction': _call(r.last_transaction),
    'getInvalidations': _call(r.get_invalidations, a.tid),
    'has_transaction': _call(r.has_transaction, a.tid),
    'history': _call(r.history, a.oid, a.count, optional=1),
    'record_iternext': _call(r.record_iternext, a.optional_tid, optional=1),
    'sendBlob': _call(r.send_blob, a.oid, a.tid),
    'blob_size': _call(r.blob_size, a.oid, a.tid),
    'iterator_start': _call(r.iterator_start, a.optional_tid, a.optional_tid),
    'iterator_next': _call(r.iterator_next, a.integer),
    'iterator_record_start': _call(r.iterator_record_start, a.integer, a.tid),
    'iterator_record_next': _call(r.iterator_record_next, a.integer),
    'iterator_gc': _oneway(r.iterator_gc, a.ids),
    'iterator_batch': _call(r.iterator_batch, a.integer, a.size),
    'undoLog': _call(r.undo_log, a.count, a.count),
    'undoInfo': _call(r.undo_info, a.count, a.count, a.specification, optional=3),
    'undo_iterator': _call(r.undo_iterator, a.count, a.count, a.specification),
    'history_iterator': _call(r.history_iterator, a.oid, a.count),
    'entry_batch': _call(r.entry_batch, a.integer, a.size),

    'new_oids': _call(w.new_oids, a.count, optional=1),
    'tpc_begin': _oneway(w.tpc_begin, a.transaction_id, a.text, a.text, a.extension, a.optional_tid,
                         a.status, optional=2, usual=w.usual_begin),
    'storea': _buffered(w.storea, a.written_oid, a.serial, a.record, a.transaction_id, usual=w.usual_store),
    'restorea': _buffered(w.restorea, a.written_oid, a.serial, a.data, a.optional_tid, a.transaction_id),
    'checkCurrentSerialInTransaction': _buffered(w.check_current, a.written_oid, a.serial, a.transaction_id),
    'deleteObject': _buffered(w.delete_object, a.written_oid, a.serial, a.transaction_id),
    'storeBlobStart': _buffered(w.store_blob_start),
    'storeBlobChunk': _buffered(w.store_blob_chunk, a.record),
    'storeBlobEnd': _buffered(w.store_blob_end, a.written_oid, a.serial, a.record, a.transaction_id),
    'storeBlobShared': _buffered(w.store_blob_shared, a.written_oid, a.serial, a.record, a.name,
                                 a.transaction_id),
    'undoa': _buffered(w.undoa, a.undo_id, a.transaction_id),
    'vote': _call(w.vote, a.transaction_id),
    'tpc_finish': _call(w.tpc_finish, a.transaction_id),
    'tpc_abort': _call(w.tpc_abort, a.transaction_id),
    'pack': _call(w.pack, a.seconds, a.flag, optional=1),
}
