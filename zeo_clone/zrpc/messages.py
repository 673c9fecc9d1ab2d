"""Messages: the pickled 4-tuple ``(message_id, flag, name, args)`` and its kinds.

Values in, contents of frames out, and the reverse; sans-I/O.  `decode` vouches for the shape of what it
returns, not for arguments, which their receivers check.  The one call that a site makes all the time,
``loadBefore`` and its reply, has a fast path beside the general one, byte for byte a valid pickle of the
same message; a test holds the two against each other.
"""
from __future__ import annotations

import struct
from typing import Any, NamedTuple

from zeo_clone.Exceptions import ProtocolError
from zeo_clone.zrpc import marshal

REPLY = '.reply'
#: The flag of an error reply in Z5.
ERROR_FLAG = 2
KEEP_ALIVE_ID = -1
#: Longest method name that is looked at.
MAX_NAME = 64


class Message(NamedTuple):
    """A decoded message.  ``id``: int, bytes, str or the tuple ``(oid, tid)`` of ZEO 5/6's loads."""

    id: Any
    flag: int
    name: str
    args: Any


def encode_call(message_id: int, name: str, args: tuple[Any, ...]) -> bytes:
    """A two-way call."""
    return marshal.dumps((message_id, False, name, args))


def encode_oneway(name: str, args: tuple[Any, ...]) -> bytes:
    """A one-way call, either direction."""
    return marshal.dumps((0, True, name, args))


def encode_reply(message_id: Any, value: Any) -> bytes:
    """The reply to a two-way call."""
    return marshal.dumps((message_id, 0, REPLY, value))


def encode_error(message_id: Any, name: str, state: Any) -> bytes:
    """A Z5 error reply: the exception's dotted class name and its state."""
    return marshal.dumps((message_id, ERROR_FLAG, REPLY, (name, state)))


KEEP_ALIVE = marshal.dumps((KEEP_ALIVE_ID, 0, REPLY, None))


def decode(content: bytes) -> Message:
    """The message in a frame's content.  Raises `ProtocolError` for anything else."""
    if len(content) == _LOAD.size and content[:4] == _ID:
        _, message_id, name, oid, mark, tid, end = _LOAD.unpack(content)
        if name == _LOAD_NAME and mark == _BYTES_8 and end == _LOAD_END:
            return Message(message_id, 0, 'loadBefore', (oid, tid))
    elif content[8:22] == _LOADED and content[:4] == _ID and len(content) >= _LOADED_HEAD.size:
        message = _decode_loaded(content)
        if message is not None:
            return message
    elif content[:20] == _STORE:
        message = _decode_store(content)
        if message is not None:
            return message
    return _checked(marshal.loads(content))


def _checked(value: object) -> Message:
    if type(value) is not tuple or len(value) != 4:
        raise ProtocolError('a message is not a tuple of four')
    message_id, flag, name, args = value
    if type(flag) not in (int, bool) or not 0 <= flag <= ERROR_FLAG:
        raise ProtocolError("a message's flag is none of 0, 1, 2")
    if type(name) is not str or len(name) > MAX_NAME:
        raise ProtocolError("a message's name is not a short text")
    if not (type(message_id) is tuple and len(message_id) <= 4 and all(map(_is_plain_id, message_id))
            or _is_plain_id(message_id)):
        raise ProtocolError(f'the message id of a {name[:20]!r} is of a wrong type')
    if name != REPLY and type(args) is not tuple:
        raise ProtocolError(f'the arguments of a {name[:20]!r} are not a tuple')
    return Message(message_id, int(flag), name, args)


def _is_plain_id(value: object) -> bool:
    return type(value) is int or (type(value) in (bytes, str) and len(value) <= MAX_NAME)  # type: ignore[arg-type]


# ---- the fast path: loadBefore, its reply, and storea -------------------------------------------
# As pickle protocol 3, with ids always as BININT so that all offsets are fixed:
#   (id, False, 'loadBefore', (oid, tid))
#   (id, 0, '.reply', (data, serial, next serial or None))
#   (0, True, 'storea', (oid, serial, data, transaction id))
_ID = b'\x80\x03(J'
_BYTES_8 = b'C\x08'
_LOAD_NAME = b'\x89X\n\0\0\0loadBeforeC\x08'
_LOAD_END = b'\x86t.'
_LOAD = struct.Struct('<4si18s8s2s8s3s')
_LOADED = b'K\0X\x06\0\0\0.replyB'
_LOADED_HEAD = struct.Struct('<4si14sI')
_CURRENT_TAIL = struct.Struct('<2s8s4s')
_CURRENT_END = b'N\x87t.'
_PAST_TAIL = struct.Struct('<2s8s2s8s3s')
_PAST_END = b'\x87t.'
_STORE = b'\x80\x03(K\0\x88X\x06\0\0\0storea(C\x08'
_STORE_HEAD = struct.Struct('<20s8s2s8scI')
_STORE_TAIL = struct.Struct('<ci3s')
_STORE_END = b'tt.'
assert (_LOAD.size, _LOADED_HEAD.size, _CURRENT_TAIL.size, _PAST_TAIL.size) == (47, 26, 14, 23)
assert (len(_STORE), _STORE_HEAD.size, _STORE_TAIL.size) == (20, 43, 8)


def encode_load(message_id: int, oid: bytes, tid: bytes) -> bytes:
    """`encode_call` of loadBefore for an id of 31 bits and an oid and tid of exactly 8 bytes."""
    return _LOAD.pack(_ID, message_id, _LOAD_NAME, oid, _BYTES_8, tid, _LOAD_END)


def encode_loaded(message_id: Any, revision: Any) -> bytes:
    """`encode_reply` for what a storage's loadBefore returned."""
    if (type(message_id) is int and -0x80000000 <= message_id <= 0x7fffffff
            and type(revision) is tuple and len(revision) == 3):
        data, serial, end = revision
        if type(data) is bytes and type(serial) is bytes and len(serial) == 8:
            head = _LOADED_HEAD.pack(_ID, message_id, _LOADED, len(data))
            if end is None:
                return b''.join((head, data, _CURRENT_TAIL.pack(_BYTES_8, serial, _CURRENT_END)))
            if type(end) is bytes and len(end) == 8:
                return b''.join((head, data,
                                 _PAST_TAIL.pack(_BYTES_8, serial, _BYTES_8, end, _PAST_END)))
    return encode_reply(message_id, revision)


def _decode_loaded(content: bytes) -> Message | None:
    _, message_id, _, size = _LOADED_HEAD.unpack_from(content)
    stop = 26 + size
    rest = len(content) - stop
    if rest == 14:
        mark, serial, end_mark = _CURRENT_TAIL.unpack_from(content, stop)
        if mark == _BYTES_8 and end_mark == _CURRENT_END:
            return Message(message_id, 0, REPLY, (content[26:stop], serial, None))
    elif rest == 23:
        mark, serial, mark_2, end, end_mark = _PAST_TAIL.unpack_from(content, stop)
        if mark == mark_2 == _BYTES_8 and end_mark == _PAST_END:
            return Message(message_id, 0, REPLY, (content[26:stop], serial, end))
    return None


def encode_store(oid: bytes, serial: bytes, data: bytes, transaction_id: int) -> bytes:
    """`encode_oneway` of storea for an id of 31 bits and an oid and serial of exactly 8 bytes."""
    return b''.join((_STORE_HEAD.pack(_STORE, oid, _BYTES_8, serial, b'B', len(data)), data,
                     _STORE_TAIL.pack(b'J', transaction_id, _STORE_END)))


def _decode_store(content: bytes) -> Message | None:
    if len(content) < 43:
        return None
    _, oid, mark, serial, data_mark, size = _STORE_HEAD.unpack_from(content)
    stop = 43 + size
    if mark != _BYTES_8 or data_mark != b'B' or len(content) != stop + 8:
        return None
    id_mark, transaction_id, end = _STORE_TAIL.unpack_from(content, stop)
    if id_mark != b'J' or end != _STORE_END:
        return None
    return Message(0, 1, 'storea', (oid, serial, content[43:stop], transaction_id))
