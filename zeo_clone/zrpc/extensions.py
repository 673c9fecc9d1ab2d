"""Extensions of transactions: what applications write beside user and description, any object.

In: an extension, as an object or as the pickle that a storage keeps; what a storage says about transactions.
Out: what may travel and what may be stored.  A pickle is read by our own decoder only: nothing that it names
is imported, and a server stores it, to be read by its storage again and again, only if all in it is plain or
`rich`.  The rule: *an item that cannot be sent, or stored, as it is becomes text*, what ``repr`` says of it,
cut to `MAX_TEXT` characters; an object whose class is known to nobody here, the name of the class in angle
brackets.  Pure functions, any thread.
"""
from __future__ import annotations

from typing import Any

from ZODB._compat import dumps as pickled

from zeo_clone.Exceptions import ProtocolError
from zeo_clone.zrpc import marshal, rich
from zeo_clone.zrpc.allowed import MAX_DEPTH, MAX_INT_BYTES, Foreign, find_any, find_harmless, key_fault
from zeo_clone.zrpc.decoder import loads

#: Characters of the text that takes the place of an object.
MAX_TEXT = 1000
#: Key of the text that takes the place of an extension that cannot be read at all.
UNREADABLE = 'extension'

_PROTOCOL = 3  # as ZODB writes them
_SIMPLE = frozenset({bytes, float, bool, type(None)})  # nothing of these cannot be sent
_MAX_LEVEL = MAX_DEPTH - 8  # what messages have around it fits as well


# ---- pickles ------------------------------------------------------------------------------------

def read(data: bytes) -> dict[Any, Any]:
    """The extension that a storage has kept as `data`, of plain and rich values and texts.  Never raises."""
    if not data:
        return {}
    try:
        extension = loads(data, find_any, rich.MAX_LARGE_INT)
    except ProtocolError:
        extension = None
    if type(extension) is not dict:
        return {UNREADABLE: as_text(data)}
    return {key: _without_foreign(value) for key, value in extension.items()}


def storable(data: bytes) -> bytes | dict[Any, Any]:
    """What a client has sent as the pickle of an extension, if it may be stored like that; else what can be
    read of it."""
    try:
        if type(loads(data, find_harmless, rich.MAX_LARGE_INT)) is dict:
            return data
    except ProtocolError:
        pass
    return read(data)


def _without_foreign(value: Any) -> Any:
    kind = type(value)
    if kind is Foreign:
        return f'<{value.title}>'
    if kind is dict:
        return {key: _without_foreign(item) for key, item in value.items()}
    if kind is list or kind is tuple:
        return kind(map(_without_foreign, value))
    return value


# ---- what travels -------------------------------------------------------------------------------

def to_send(transaction: Any, with_rich: bool) -> bytes | dict[Any, Any]:
    """The extension of `transaction`, which is under way or was read from a storage.

    To a peer that takes rich values the pickle, byte for byte as it is or will be stored; to others a dict
    of plain values.  Empty: a dict.
    """
    if not with_rich:
        return plain(transaction)
    try:
        data = getattr(transaction, 'extension_bytes', None)
        if type(data) is not bytes:
            extension = dict(transaction.extension)
            data = pickled(extension, _PROTOCOL) if extension else b''
        return data or {}
    except Exception:  # of an object's own code, when it is to be pickled
        return plain(transaction)


def plain(transaction: Any) -> dict[Any, Any]:
    """The extension of `transaction` as a dict of plain values."""
    if 'extension' in getattr(transaction, '__dict__', ()):  # the object, not only its pickle
        extension = dict(transaction.extension)
    else:
        data = getattr(transaction, 'extension_bytes', None)
        extension = read(data) if type(data) is bytes else dict(transaction.extension)
    return {_key(key): sendable(value, False) for key, value in extension.items()}


def sendable(value: Any, with_rich: bool, level: int = 0) -> Any:
    """`value` as it can be sent, also to a peer that takes plain values only: of items that cannot, texts."""
    kind = type(value)
    if kind in _SIMPLE:
        return value
    if kind is str:
        return value if value.isascii() else value.encode('utf-8', 'backslashreplace').decode()
    if kind is int:
        limit = rich.MAX_LARGE_INT if with_rich else MAX_INT_BYTES
        return value if value.bit_length() < 8 * limit else f'<an integer of {value.bit_length()} bits>'
    if level < _MAX_LEVEL:
        if kind is dict:
            return {_key(key): sendable(item, with_rich, level + 1) for key, item in value.items()}
        if kind is list or kind is tuple:
            return kind(sendable(item, with_rich, level + 1) for item in value)
    if with_rich and kind in rich.TYPES or kind is set or kind is frozenset:
        try:
            marshal.dumps(value, with_rich=with_rich)
            return value
        except marshal.ENCODE_ERRORS:  # a time zone of another library, or a set of such things
            pass
    return as_text(value)


def _key(key: Any) -> Any:
    if type(key) is str:
        return sendable(key, False)
    return key if key_fault((key,), 0) is None else as_text(key)


def as_text(value: object) -> str:
    """What ``repr`` says of any object; the code of its class runs, so that anything can happen."""
    try:
        text = repr(value)
    except Exception:
        text = f'<{type(value).__module__}.{type(value).__qualname__}>'
    text = text.encode('utf-8', 'backslashreplace').decode()
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT - 3] + '...'
