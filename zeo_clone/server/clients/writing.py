"""What a client may write: transactions, from the first word to the last, and packs.

In: a member and arguments whose types have been checked.  Out: as `methods` says.  Loop thread only.
"""
from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ZODB.POSException import ReadOnlyError

from zeo_clone.server.clients.arguments import is_usual_begin, is_usual_store
from zeo_clone.server.deferred import Deferred
from zeo_clone.server.vocabulary import Kind, Meta, Operation
from zeo_clone.zrpc.connection import Call
from zeo_clone.zrpc.offers import MAX_NEW_OIDS

if TYPE_CHECKING:
    from zeo_clone.server.clients.member import Member

_new = tuple.__new__  # makes a NamedTuple in a third of the time


def new_oids(member: Member, count: int = MAX_NEW_OIDS) -> Any:
    if member.read_only:
        raise ReadOnlyError()
    return member.backend.new_oids(min(count, MAX_NEW_OIDS))


def tpc_begin(member: Member, transaction_id: Any, user: str | bytes, description: str | bytes,
              extension: dict[Any, Any] | bytes, tid: bytes | None = None, status: str = ' ') -> None:
    member.transactor.begin(Meta(transaction_id, user, description, extension, tid, status))
    member.count_meta()


def usual_begin(member: Member, call: Call) -> bool:
    """The call that every commit begins with."""
    _, _, args, oneway = call
    if not oneway or not is_usual_begin(args):
        return False
    try:
        member.transactor.begin(_new(Meta, args))
    except Exception as error:
        member.calls.refuse(member, call, Kind.ONEWAY, error)
    member.count_meta()
    return True


def storea(member: Member, oid: bytes, serial: bytes, data: bytes, transaction_id: Any) -> None:
    member.stats.stores += 1
    member.transactor.add(transaction_id, Operation('store', oid, serial, data))


def usual_store(member: Member, call: Call) -> bool:
    """The call that a large transaction consists of."""
    _, _, args, oneway = call
    if not oneway or not is_usual_store(args):
        return False
    oid, serial, data, transaction_id = args
    member.stats.stores += 1
    try:
        member.transactor.add(transaction_id, _new(Operation, ('store', oid, serial, data, None)))
    except Exception as error:
        member.calls.refuse(member, call, Kind.BUFFERED, error)
    return True


def restorea(member: Member, oid: bytes, serial: bytes, data: bytes | None, previous: bytes | None,
             transaction_id: Any) -> None:
    member.stats.stores += 1
    member.transactor.add(transaction_id, Operation('restore', oid, serial, data, previous))


def check_current(member: Member, oid: bytes, serial: bytes, transaction_id: Any) -> None:
    member.transactor.add(transaction_id, Operation('check', oid, serial))


def delete_object(member: Member, oid: bytes, serial: bytes, transaction_id: Any) -> None:
    member.transactor.add(transaction_id, Operation('delete', oid, serial))


def store_blob_start(member: Member) -> None:
    member.transactor.start_blob()


def store_blob_chunk(member: Member, chunk: bytes) -> None:
    member.transactor.write_blob(chunk)


def store_blob_end(member: Member, oid: bytes, serial: bytes, data: bytes, transaction_id: Any) -> None:
    member.stats.stores += 1
    member.transactor.end_blob(transaction_id, Operation('blob', oid, serial, data))


def store_blob_shared(member: Member, oid: bytes, serial: bytes, data: bytes, name: str,
                      transaction_id: Any) -> None:
    member.stats.stores += 1
    member.transactor.share_blob(transaction_id, Operation('blob', oid, serial, data, name))


def undoa(member: Member, undo_id: bytes, transaction_id: Any) -> None:
    member.transactor.add(transaction_id, Operation('undo', extra=undo_id))


def vote(member: Member, transaction_id: Any) -> Deferred:
    return member.transactor.vote(transaction_id)


def tpc_finish(member: Member, transaction_id: Any) -> bytes | Deferred:
    return member.transactor.finish(transaction_id)


def tpc_abort(member: Member, transaction_id: Any) -> Deferred | None:
    return member.transactor.abort(transaction_id)


def pack(member: Member, time: float, wait: bool = True) -> Deferred | None:
    done = member.pack(time)
    if wait:
        return done
    done.when_settled(partial(_report_pack, member))
    return None


def _report_pack(member: Member, _: Any, error: BaseException | None) -> None:
    """The end of a pack whose client does not wait for it."""
    if error is not None:
        member.calls.log('pack', error)
