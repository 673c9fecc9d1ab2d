"""Checks of arguments: what comes from a client, before anything is done with it (S5a).

In: one decoded value of any shape.  Out: the value that a storage may be given, or `BadArgument`, whose
text tells types and lengths, never the value.  Exact types only; nothing is hashed, compared or
formatted before its type is known.  Pure functions.
"""
from __future__ import annotations

import math
import sys
from typing import Any

from ZODB.utils import z64

from zeo_clone.server.vocabulary import END_OF_OIDS, BadArgument
from zeo_clone.zrpc.extensions import sendable, storable
from zeo_clone.zrpc.messages import clean_label
from zeo_clone.zrpc.offers import MAX_NAME

#: Characters of a client's version.
MAX_VERSION = 40
#: A message that a client wants has fewer bytes than this.
MAX_SIZE = 1 << 31
#: Ids in one ``iterator_gc``.
MAX_IDS = 50_000
#: Oids in one ``load_batch``.
MAX_OIDS = 1000


def bad(value: Any, wanted: str) -> BadArgument:
    """The error for `value`, where `wanted` was."""
    sized = type(value) in (bytes, str, tuple, list, dict)
    length = f' of length {len(value)}' if sized else ''
    return BadArgument(f'{wanted} expected, not {type(value).__name__}{length}')


def oid(value: Any) -> bytes:
    """8 bytes; old clients may send them as a text of 8 latin-1 characters.  Also for tids."""
    if type(value) is bytes and len(value) == 8:
        return value
    if type(value) is str and len(value) == 8:
        try:
            return value.encode('latin-1')
        except UnicodeEncodeError:
            pass
    raise bad(value, '8 bytes')


tid = oid


def written_oid(value: Any) -> bytes:
    """The oid of an object that is written: below 2**63, or there would be none after it (C25)."""
    checked = oid(value)
    if checked >= END_OF_OIDS:
        raise BadArgument('an oid below 2**63 expected, not a higher one')
    return checked


def oids(value: Any) -> bytes:
    """Oids, one after the other."""
    if type(value) is bytes and 0 < len(value) <= 8 * MAX_OIDS and not len(value) % 8:
        return value
    raise bad(value, f'1 to {MAX_OIDS} oids, one after the other,')


def serial(value: Any) -> bytes:
    """The tid of the revision that a change is based on; None or zero for a new object."""
    return z64 if value is None else oid(value)


def optional_tid(value: Any) -> bytes | None:
    """A tid or None."""
    return None if value is None else oid(value)


def data(value: Any) -> bytes | None:
    """A record, or None for "there is none"."""
    if value is None or type(value) is bytes:
        return value
    raise bad(value, 'bytes or None')


def record(value: Any) -> bytes:
    """A record or a part of one."""
    if type(value) is bytes:
        return value
    raise bad(value, 'bytes')


def token(value: Any) -> bytes:
    """What a client calls itself: 16 bytes that nobody can guess."""
    if type(value) is bytes and len(value) == 16:
        return value
    raise bad(value, '16 bytes')


def transaction_id(value: Any) -> int | str | bytes:
    """What a client calls its transaction: a number, or a short text."""
    if type(value) is int:
        return value
    if (type(value) is bytes or type(value) is str) and len(value) <= MAX_NAME:
        return value
    raise bad(value, 'a transaction id')


def text(value: Any) -> str | bytes:
    """A user name or a description."""
    if type(value) is bytes or type(value) is str:
        return value
    raise bad(value, 'text')


def name(value: Any) -> str:
    """A short text."""
    if type(value) is bytes and len(value) <= MAX_NAME:
        return value.decode('latin-1')
    if type(value) is str and len(value) <= MAX_NAME:
        return value
    raise bad(value, f'text of at most {MAX_NAME} characters')


def label(value: Any) -> str:
    """What a client calls itself; it will be cut."""
    if type(value) is bytes:
        return value[:MAX_NAME].decode('latin-1')
    if type(value) is str:
        return value
    raise bad(value, 'text')


def flag(value: Any) -> bool:
    """A truth value."""
    if value is None or type(value) is bool or type(value) is int:
        return bool(value)
    raise bad(value, 'a truth value')


def integer(value: Any) -> int:
    """A number by which something is known."""
    if type(value) is int:
        return value
    raise bad(value, 'an integer')


def count(value: Any) -> int:
    """A number of things, never more than `sys.maxsize`, or a negative one with a meaning of its own."""
    return max(-sys.maxsize, min(integer(value), sys.maxsize))


def size(value: Any) -> int:
    """A number of bytes."""
    if type(value) is int and -MAX_SIZE < value < MAX_SIZE:
        return value
    raise bad(value, 'a small integer')


def seconds(value: Any) -> float:
    """A point in time, in seconds since the epoch."""
    if type(value) is float and math.isfinite(value) or type(value) is int and 0 <= value < 1 << 40:
        return float(value)
    raise bad(value, 'a time in seconds')


def told(value: Any) -> dict[str, Any]:
    """What a client says of itself, as far as it is known here; the rest is for later servers."""
    if type(value) is not dict:
        raise bad(value, 'a dict')
    found: dict[str, Any] = {}
    if type(value.get('version')) is str:
        found['version'] = clean_label(value['version'])[:MAX_VERSION]
    for key in ('hits', 'misses'):
        if type(value.get(key)) is int and 0 <= value[key] < 1 << 63:
            found[key] = value[key]
    return found


def extension(value: Any) -> dict[Any, Any] | bytes:
    """The extension of a transaction: a dict, or the pickle of one in which nothing can do harm."""
    if type(value) is dict:
        return {key: sendable(item, True) for key, item in value.items()}
    if type(value) is bytes:
        return storable(value)
    raise bad(value, 'a dict')


def status(value: Any) -> str:
    """The status of a copied transaction: one ASCII character."""
    if type(value) is bytes and len(value) == 1:
        value = value.decode('latin-1')
    if type(value) is str and len(value) == 1 and value.isascii():
        return value
    raise bad(value, 'one character')


def undo_id(value: Any) -> bytes:
    """The id of a transaction in an undo log."""
    if type(value) is str and value.isascii() and len(value) <= MAX_NAME:
        return value.encode('ascii')
    if type(value) is bytes and len(value) <= MAX_NAME:
        return value
    raise bad(value, 'the id of a transaction')


def specification(value: Any) -> dict[str, Any] | None:
    """The filter of ``undoInfo``: None, or keys and the values that they must have."""
    if value is None or type(value) is dict and all(type(key) is str for key in value):
        return value
    raise bad(value, 'a dict with names as keys, or None')


def ids(value: Any) -> list[int]:
    """Ids of iterators."""
    if type(value) in (list, tuple) and len(value) <= MAX_IDS and set(map(type, value)) <= {int}:
        return list(value)
    raise bad(value, f'a list of at most {MAX_IDS} integers')


def anything(value: Any) -> Any:
    """Any plain value, for a method of which only the storage knows what it wants."""
    return value


# ---- the usual forms of the methods that are called most --------------------------------------

def is_usual_load(args: tuple[Any, ...]) -> bool:
    """Whether `args` are those of loadBefore and need no conversion."""
    return (len(args) == 2 and type(args[0]) is bytes and type(args[1]) is bytes
            and len(args[0]) == 8 and len(args[1]) == 8)


def is_usual_begin(args: tuple[Any, ...]) -> bool:
    """Whether `args` are those of tpc_begin and need no conversion."""
    if len(args) != 6:
        return False
    transaction_id, user, description, extension, tid, status = args
    return (tid is None and type(transaction_id) is int and type(user) is bytes and type(description) is bytes
            and type(extension) is dict and not extension and type(status) is str and status == ' ')


def is_usual_store(args: tuple[Any, ...]) -> bool:
    """Whether `args` are those of storea and need no conversion."""
    if len(args) != 4:
        return False
    oid, serial, data, transaction_id = args
    return (type(oid) is bytes and type(serial) is bytes and type(data) is bytes
            and type(transaction_id) is int and len(oid) == 8 and len(serial) == 8 and oid < END_OF_OIDS)
