"""Messages: the pickled 4-tuple ``(message_id, flag, name, args)`` and its kinds.

Values in, contents of frames out, and the reverse; sans-I/O.  `decode` vouches for the shape of what it
returns, not for arguments, which their receivers check.

What sites exchange all the time has a shape in `SHAPES`, and needs no pickler.  Tests hold both ways against
each other, for each shape and for what nearly has one.
"""
from __future__ import annotations

from collections.abc import Generator
from struct import Struct
from struct import error as struct_error
from typing import Any

from zeo_clone.Exceptions import ProtocolError
from zeo_clone.zrpc import marshal
from zeo_clone.zrpc.decoder import PART, loads_in_parts
from zeo_clone.zrpc.frames import LENGTH
from zeo_clone.zrpc.shapes import (
    BYTES,
    EIGHT,
    EIGHTS,
    LONG_NUMBER,
    NUMBER,
    Message,
    Shape,
    pack_number,
    pack_size,
    read_eights,
)

__all__ = ['ERROR_FLAG', 'KEEP_ALIVE', 'KEEP_ALIVE_ID', 'MAX_NAME', 'NOTICE', 'REPLY', 'Change', 'Message',
           'decode', 'decode_notices', 'encode_call', 'encode_encoded', 'encode_error', 'encode_load',
           'encode_loaded', 'encode_oneway', 'encode_reply', 'encode_store']

#: A transaction and the oids that it wrote.
Change = tuple[bytes, list[bytes]]

REPLY = '.reply'
#: The flag of an error reply in Z5.
ERROR_FLAG = 2
KEEP_ALIVE_ID = -1
#: Opcodes of a large call.  A store has 20; the rest is for extensions of transactions and for methods of a
#: storage's own, and so few that no single one of them, such as the end of a long list, takes long.
MAX_CALL_OPCODES = 100_000
#: What is longer than this may be a large call: an opcode has one byte at least.
LARGE = PART
#: Longest method name that is looked at.
MAX_NAME = 64
#: Characters of what a client calls itself; more are cut off.
MAX_LABEL = 100


def clean_label(text: str) -> str:
    """`text` as a client's label: short, and on one line of a log."""
    return ''.join(char if char.isprintable() else '?' for char in text[:MAX_LABEL])


# ---- shapes ---------------------------------------------------------------------------------------

LOAD = Shape(NUMBER, False, 'loadBefore', (EIGHT, EIGHT))
CURRENT = Shape(NUMBER, 0, REPLY, (BYTES, EIGHT, None))
PAST = Shape(NUMBER, 0, REPLY, (BYTES, EIGHT, EIGHT))
STORE = Shape(0, True, 'storea', (EIGHT, EIGHT, BYTES, NUMBER))
NOTICE = Shape(0, True, 'invalidateTransaction', (EIGHT, EIGHTS))
SHAPES = (
    LOAD, CURRENT, PAST, STORE, NOTICE,
    Shape(NUMBER, False, 'vote', (NUMBER,)),
    Shape(NUMBER, False, 'tpc_finish', (NUMBER,)),
    Shape(NUMBER, False, 'tpc_abort', (NUMBER,)),
    Shape(NUMBER, 0, REPLY, None),
    Shape(NUMBER, 0, REPLY, EIGHT),
    Shape(NUMBER, 0, REPLY, []),
    Shape(NUMBER, 0, REPLY, [{'tid': EIGHT}]),
    Shape(0, True, 'tpc_begin', (NUMBER, BYTES, BYTES, {}, None, ' ')),
    Shape(0, True, 'storeBlobChunk', (BYTES,)),
    Shape(0, True, 'receiveBlobChunk', (EIGHT, EIGHT, BYTES)),
    Shape(0, True, 'info', ({'length': LONG_NUMBER, 'size': LONG_NUMBER},)),
)
_CALLS = {shape.name: shape for shape in SHAPES if shape.is_numbered and shape.name != REPLY}
_ONEWAY = {shape.name: shape for shape in SHAPES if not shape.is_numbered}
_REPLIES = {kind: [shape for shape in SHAPES if shape.name == REPLY and shape.type is kind]
            for kind in {shape.type for shape in SHAPES if shape.name == REPLY}}
#: By the size of the whole message; by how it starts, or goes on behind its id, if that differs.
_SIZED: dict[int, list[Shape]] = {}
_OPEN: dict[bytes, list[Shape]] = {}
for _shape in SHAPES:
    if _shape.size is not None:
        _SIZED.setdefault(_shape.size, []).append(_shape)
    else:
        _start = _shape.constants[1][:8] if _shape.is_numbered else _shape.constants[0][:16]
        _OPEN.setdefault(_start, []).append(_shape)
_LOADED = CURRENT.constants[1]  # behind the id
_NOTICE, _NOTICE_OIDS, _NOTICE_END = NOTICE.constants
_notice_start = Struct(f'>I{len(_NOTICE)}s8s{len(_NOTICE_OIDS)}s')  # of a frame, up to its first oid


# ---- encoding -------------------------------------------------------------------------------------

def encode_call(message_id: int, name: str, args: tuple[Any, ...]) -> bytes:
    """A two-way call."""
    shape = _CALLS.get(name)
    return (shape is not None and shape.encode(message_id, args)
            or marshal.dumps((message_id, False, name, args)))


def encode_load(message_id: int, oid: bytes, tid: bytes) -> bytes:
    """`encode_call` of loadBefore, for an id of 31 bits and an oid and tid of exactly 8 bytes."""
    return LOAD.template % (pack_number(message_id), oid, tid)


def encode_oneway(name: str, args: tuple[Any, ...]) -> bytes:
    """A one-way call, either direction."""
    shape = _ONEWAY.get(name)
    return shape is not None and shape.encode(0, args) or marshal.dumps((0, True, name, args))


def encode_store(oid: bytes, serial: bytes, data: bytes, number: int) -> bytes:
    """`encode_oneway` of storea, for a number of 31 bits and an oid and serial of exactly 8 bytes."""
    return STORE.template % (oid, serial, pack_size(len(data)), data, pack_number(number))


def encode_reply(message_id: Any, value: Any, with_rich: bool = False) -> bytes:
    """The reply to a two-way call; `with_rich`: the peer takes values of `rich`."""
    for shape in _REPLIES.get(type(value), ()):
        content = shape.encode(message_id, value)
        if content is not None:
            return content
    return marshal.dumps((message_id, 0, REPLY, value), with_rich=with_rich)


def encode_encoded(message_id: Any, value: marshal.Encoded) -> list[bytes]:
    """The same for a value that is encoded already, in pieces."""
    # The message ends in its value, the mark of the tuple and the end, whatever the value is.
    head = marshal.dumps((message_id, 0, REPLY, None))
    assert head.endswith(_END)
    return [head[:-len(_END)], *value.pieces, _END[1:]]


def encode_loaded(message_id: Any, revision: Any) -> bytes:
    """`encode_reply` for what a storage's loadBefore returned, faster."""
    return (CURRENT.encode(message_id, revision) or PAST.encode(message_id, revision)
            or encode_reply(message_id, revision))


def encode_error(message_id: Any, name: str, state: Any) -> bytes:
    """A Z5 error reply: the exception's dotted class name and its state."""
    return marshal.dumps((message_id, ERROR_FLAG, REPLY, (name, state)))


#: The end of a message whose value is None.
_END = b'Nt.'
KEEP_ALIVE = marshal.dumps((KEEP_ALIVE_ID, 0, REPLY, None))


# ---- decoding -------------------------------------------------------------------------------------

def decode(content: bytes) -> Message:
    """The message in a frame's content: id (int, bytes, str or the tuple ``(oid, tid)`` of ZEO 5/6's loads),
    flag, name, args.  Raises `ProtocolError` for anything else."""
    return _decode_shape(content) or _checked(marshal.loads(content))


def decode_in_parts(content: bytes) -> Generator[None, None, Message]:
    """The same for a large call: returns the message, with a pause after each millisecond of work."""
    return _decode_shape(content) or _checked((yield from loads_in_parts(content, MAX_CALL_OPCODES)))


def _decode_shape(content: bytes) -> Message | None:
    if content[8:22] == _LOADED:
        return CURRENT.decode(content) or PAST.decode(content)
    for shape in _SIZED.get(len(content), ()):
        message = shape.decode(content)
        if message is not None:
            return message
    for shape in _OPEN.get(content[:16]) or _OPEN.get(content[8:16]) or ():
        message = shape.decode(content)
        if message is not None:
            return message
    return None


def decode_notices(data: bytes, limit: int) -> tuple[list[Change], int]:
    """What the frames at the start of `data` tell that are notices of at most `limit` bytes, and where they
    end.  Faster than one by one."""
    found: list[Change] = []
    at, size, read, head = 0, len(data), _notice_start.unpack_from, _notice_start.size
    try:
        while size - at > head:
            length, start, tid, middle = read(data, at)
            stop = at + LENGTH.size + length
            if (start != _NOTICE or middle != _NOTICE_OIDS or length > limit or stop > size
                    or data[stop - len(_NOTICE_END):stop] != _NOTICE_END):
                break
            found.append((tid, read_eights(data[at + head:stop - len(_NOTICE_END)])))
            at = stop
    except struct_error:  # it is cut off, or has something else there
        pass
    return found, at


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
    return message_id, int(flag), name, args


def _is_plain_id(value: object) -> bool:
    return type(value) is int or (type(value) in (bytes, str) and len(value) <= MAX_NAME)  # type: ignore[arg-type]
