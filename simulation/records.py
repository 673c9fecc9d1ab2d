"""Records as clients of the simulation write them.

They look like ZODB's, class and state in two pickles, so that everything on their way takes them for that.
The state is bytes: a mark, a value, the number of the attempt that wrote it, those of attempts that are
listed in it, and padding.  The root's state is a list of references.  A `Cell` is an object with such a
state, for those who work with ZODB's connections.  A record of a blob says how long its file is; what is in
it follows from the attempt.  Who counts a `Counter` on while somebody else does has no conflict.
"""
from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any, NamedTuple

from persistent import Persistent

#: Classes, as ZODB pickles them.
CLASS = b'\x80\x03csimulation.records\nCell\nq\x01.'
COUNTER = b'\x80\x03csimulation.records\nCounter\nq\x01.'
BLOB = b'\x80\x03cZODB.blob\nBlob\nq\x01.'
MARK = b'\xffcell'
_HEAD = struct.Struct('>5sqIH')
assert _HEAD.size == 19
_NUMBER = struct.Struct('>I')
_LONG = struct.Struct('<I')
ROOT = bytes(8)
#: What each account has at the beginning.
MONEY = 100


class Content(NamedTuple):
    """What a record says."""

    value: int
    attempt: int
    listed: tuple[int, ...] = ()


def pack(content: Content, padding: int = 0) -> bytes:
    """The state, with so many bytes that mean nothing."""
    listed = b''.join(map(_NUMBER.pack, content.listed))
    return _HEAD.pack(MARK, content.value, content.attempt, len(content.listed)) + listed + bytes(padding)


def encode(content: Content, padding: int = 0, kind: bytes = CLASS) -> bytes:
    """The record; `kind`: its class."""
    state = pack(content, padding)
    return kind + b'\x80\x03B' + _LONG.pack(len(state)) + state + b'.'


def encode_root(attempt: int, oids: Iterable[bytes]) -> bytes:
    """The root: it refers to `oids`, so that a pack keeps them."""
    state = encode(Content(0, attempt))[len(CLASS) + 2:-1]
    references = b''.join(b'C\x08%bQ' % oid for oid in oids)
    return CLASS + b'\x80\x03](' + state + references + b'e.'


def decode(record: bytes) -> Content:
    """What `encode` was given.  Raises ValueError."""
    at = record.find(MARK)
    if at < 0 or record[-1:] != b'.':
        raise ValueError('not a record of ours, or one that is cut off')
    _, value, attempt, count = _HEAD.unpack_from(record, at)
    at += _HEAD.size
    listed = tuple(_NUMBER.unpack_from(record, at + 4 * index)[0] for index in range(count))
    return Content(value, attempt, listed)


def is_blob(record: bytes) -> bool:
    """Does a file belong to it?"""
    return record.startswith(BLOB)


def file_of(content: Content) -> bytes:
    """What is in the file of a blob."""
    pattern = b'%08d, ' % content.attempt
    return (pattern * (content.value // len(pattern) + 1))[:content.value]


class Cell(Persistent):  # type: ignore[misc]
    """An object with a content."""

    def __init__(self, content: Content) -> None:
        self.content = content
        self.padding = 0

    def __getstate__(self) -> bytes:
        return pack(self.content, self.padding)

    def __setstate__(self, state: Any) -> None:
        self.content = decode(state + b'.')
        self.padding = 0


class Counter(Cell):
    """... which is counted on by several at a time."""

    def _p_resolveConflict(self, old: bytes, committed: bytes, new: bytes) -> bytes:
        was, there, wanted = (decode(state + b'.') for state in (old, committed, new))
        return pack(wanted._replace(value=there.value + wanted.value - was.value))
