"""What a client accepts of its server's messages: exact shapes, checked before anything is done.

Values of the wire in, the same values out, or `ProtocolError`.  Pure functions.
"""
from __future__ import annotations

from typing import Any

from zeo_clone.Exceptions import ProtocolError, UnrecognizedResult

#: Keys of ``get_info`` and ``info`` that are understood, with the exact types of their values.
INFO_TYPES: dict[str, tuple[type, ...]] = {
    'length': (int,), 'size': (int,), 'name': (str,), 'supportsUndo': (bool, int),
    'supports_record_iternext': (bool, int), 'interfaces': (tuple, list), 'extensions': (tuple, list),
    'instance': (str,), 'database': (str,), 'frame_limit': (int,),
}
#: They are kept, so that none may be larger than this, in characters and so on (S17).
MAX_INFO_SIZE = 100_000


def is_tid(value: object) -> bool:
    """Is it 8 bytes?"""
    return type(value) is bytes and len(value) == 8


is_oid = is_tid  # they look the same


def check_oids(value: object) -> list[bytes]:
    """A list (or tuple) of oids."""
    if type(value) is list:
        for oid in value:
            if type(oid) is not bytes or len(oid) != 8:
                break
        else:
            return value
    if type(value) in (list, tuple):
        oids = [oid if type(oid) is bytes else _plain(oid) for oid in value]  # type: ignore[attr-defined]
        if all(len(oid) == 8 for oid in oids):
            return oids
    raise ProtocolError('the server sent something that is not a list of oids')


def _plain(oid: object) -> bytes:
    # Some applications' oids are subclasses of bytes (zodbpickle.binary).
    return bytes(oid) if isinstance(oid, bytes) else b''


def check_invalidation(args: tuple[Any, ...]) -> tuple[bytes, list[bytes]]:
    """The arguments of ``invalidateTransaction`` or the result of ``getInvalidations``."""
    if type(args) is not tuple or len(args) != 2 or not is_tid(args[0]):
        raise ProtocolError('the server sent an invalidation without a tid')
    return args[0], check_oids(args[1])


def check_info(value: object) -> dict[str, Any]:
    """The understood part of the server's facts about the storage."""
    if type(value) is not dict:
        raise ProtocolError("the server's info is not a dict")
    return {key: item for key, item in value.items()
            if type(item) in INFO_TYPES.get(key, ()) and _size(item) <= MAX_INFO_SIZE}


def _size(item: Any) -> int:
    if type(item) in (tuple, list):
        return sum(map(_size, item)) + 8 * len(item)
    if type(item) is str:
        return len(item)
    return 8 if type(item) in (int, bool) else MAX_INFO_SIZE + 1


def check_revision(value: object) -> tuple[bytes, bytes, bytes | None] | None:
    """The result of ``loadBefore``."""
    if value is None:
        return None
    if type(value) is tuple and len(value) == 3:
        data, start, end = value
        if type(data) is bytes and is_tid(start) and (end is None or is_tid(end)):
            return value
    raise UnrecognizedResult('the server answered loadBefore with something that is no revision')
