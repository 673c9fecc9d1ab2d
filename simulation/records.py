"""Records as clients of the simulation write them.

They look like ZODB's, class and state in two pickles, so that everything on their way takes them for that.
The state is bytes: a value, the number of the attempt that wrote it, those of attempts that are listed in it,
and padding.  The root's state is a list of references.
"""
from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

#: The class, as ZODB pickles it: PersistentMapping, which resolves no conflicts.
CLASS = b'\x80\x03cpersistent.mapping\nPersistentMapping\nq\x00.'
_HEAD = struct.Struct('>qIH')
assert _HEAD.size == 14
_NUMBER = struct.Struct('>I')
_LONG = struct.Struct('<I')
ROOT = bytes(8)


class Content(NamedTuple):
    """What a record says."""

    value: int
    attempt: int
    listed: tuple[int, ...] = ()


def encode(content: Content, padding: int = 0) -> bytes:
    """The record, with so many bytes that mean nothing."""
    listed = b''.join(map(_NUMBER.pack, content.listed))
    state = _HEAD.pack(content.value, content.attempt, len(content.listed)) + listed + bytes(padding)
    return CLASS + b'\x80\x03B' + _LONG.pack(len(state)) + state + b'.'


def encode_root(attempt: int, oids: Iterable[bytes]) -> bytes:
    """The root: it refers to `oids`, so that a pack keeps them."""
    state = encode(Content(0, attempt))[len(CLASS) + 2:-1]
    references = b''.join(b'C\x08%bQ' % oid for oid in oids)
    return CLASS + b'\x80\x03](' + state + references + b'e.'


def decode(record: bytes) -> Content:
    """What `encode` was given.  Raises ValueError."""
    at = len(CLASS) + 2
    if record[:len(CLASS)] != CLASS:
        raise ValueError('not a record of ours')
    if record[at:at + 2] == b'](':
        at += 2
    length = _LONG.unpack_from(record, at + 1)[0]
    at += 5
    if len(record) < at + length + 1:
        raise ValueError('a record that is cut off')
    value, attempt, count = _HEAD.unpack_from(record, at)
    at += _HEAD.size
    listed = tuple(_NUMBER.unpack_from(record, at + 4 * index)[0] for index in range(count))
    return Content(value, attempt, listed)
