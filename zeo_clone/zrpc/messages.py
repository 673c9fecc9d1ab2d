"""Messages: the pickled 4-tuple ``(message_id, flag, name, args)`` and its kinds.

Values in, contents of frames out, and the reverse; sans-I/O.  `decode` vouches for the shape of what it
returns, not for arguments, which their receivers check.  What a site exchanges all the time has a fast path
in `shortcuts`.
"""
from __future__ import annotations

from collections.abc import Generator
from typing import Any

from zeo_clone.Exceptions import ProtocolError
from zeo_clone.zrpc import marshal, shortcuts
from zeo_clone.zrpc.decoder import PART, loads_in_parts
from zeo_clone.zrpc.shortcuts import Message, encode_load, encode_store

__all__ = ['ERROR_FLAG', 'KEEP_ALIVE', 'KEEP_ALIVE_ID', 'MAX_NAME', 'REPLY', 'Message', 'decode',
           'encode_call', 'encode_encoded', 'encode_error', 'encode_load', 'encode_loaded', 'encode_oneway',
           'encode_reply', 'encode_store']

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


def encode_call(message_id: int, name: str, args: tuple[Any, ...]) -> bytes:
    """A two-way call."""
    return shortcuts.encode_call(message_id, name, args) or marshal.dumps((message_id, False, name, args))


def encode_oneway(name: str, args: tuple[Any, ...]) -> bytes:
    """A one-way call, either direction."""
    return shortcuts.encode_oneway(name, args) or marshal.dumps((0, True, name, args))


def encode_reply(message_id: Any, value: Any, with_rich: bool = False) -> bytes:
    """The reply to a two-way call; `with_rich`: the peer takes values of `rich`."""
    return shortcuts.encode_reply(message_id, value) or marshal.dumps(
        (message_id, 0, REPLY, value), with_rich=with_rich)


def encode_encoded(message_id: Any, value: marshal.Encoded) -> list[bytes]:
    """The same for a value that is encoded already, in pieces."""
    # The message ends in its value, the mark of the tuple and the end, whatever the value is.
    head = marshal.dumps((message_id, 0, REPLY, None))
    assert head.endswith(_END)
    return [head[:-len(_END)], *value.pieces, _END[1:]]


def encode_loaded(message_id: Any, revision: Any) -> bytes:
    """`encode_reply` for what a storage's loadBefore returned."""
    return shortcuts.encode_loaded(message_id, revision) or encode_reply(message_id, revision)


def encode_error(message_id: Any, name: str, state: Any) -> bytes:
    """A Z5 error reply: the exception's dotted class name and its state."""
    return marshal.dumps((message_id, ERROR_FLAG, REPLY, (name, state)))


#: The end of a message whose value is None.
_END = b'Nt.'
KEEP_ALIVE = marshal.dumps((KEEP_ALIVE_ID, 0, REPLY, None))


def decode(content: bytes) -> Message:
    """The message in a frame's content: id (int, bytes, str or the tuple ``(oid, tid)`` of ZEO 5/6's loads),
    flag, name, args.  Raises `ProtocolError` for anything else."""
    return shortcuts.decode(content) or _checked(marshal.loads(content))


def decode_in_parts(content: bytes) -> Generator[None, None, Message]:
    """The same for a large call: returns the message, with a pause after each millisecond of work."""
    return shortcuts.decode(content) or _checked((yield from loads_in_parts(content, MAX_CALL_OPCODES)))


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
