"""Batches: the revisions of several objects in one reply, that to ``load_batch``.

In: what a storage's loadBefore returned for each object, in order, None where there is nothing.  Out: a plain
value for a message, ``(heads, data)``, and back.  To a pickler these are two values, however many revisions
there are.  A head has 20 bytes: length of the data (big-endian), start tid, end tid, which is zero for a
current revision; where there is nothing all of it is zero.  `data` are the data one after the other.  Pure
functions.
"""
from __future__ import annotations

from struct import Struct
from typing import Any

from zeo_clone.Exceptions import UnrecognizedResult

#: ``(data, start tid, end tid or None)``.
Revision = tuple[bytes, bytes, bytes | None]

_ZERO = bytes(8)
_HEAD = Struct('>I8s8s')
_pack_head = _HEAD.pack
_unpack_heads = _HEAD.iter_unpack
assert _HEAD.size == 20


def join(revisions: list[Revision | None]) -> tuple[bytes, bytes]:
    """The value for a message.  Raises ValueError for a tid that is zero or has not 8 bytes."""
    heads: list[bytes] = []
    contents: list[bytes] = []
    for revision in revisions:
        if revision is None:
            heads.append(bytes(20))
            continue
        data, start, end = revision
        if len(start) != 8 or start == _ZERO or end is not None and (len(end) != 8 or end == _ZERO):
            raise ValueError('a tid is zero or has not 8 bytes')
        heads.append(_pack_head(len(data), start, end or _ZERO))
        contents.append(data)
    return b''.join(heads), b''.join(contents)


def split(value: Any, most: int) -> list[Revision | None]:
    """The reverse: 1 to `most` revisions.  Raises `UnrecognizedResult` for anything else."""
    if type(value) is tuple and len(value) == 2 and type(value[0]) is bytes and type(value[1]) is bytes:
        heads, contents = value
        count, odd = divmod(len(heads), 20)
        if not odd and 0 < count <= most:
            revisions: list[Revision | None] = []
            at = 0
            for length, start, end in _unpack_heads(heads):
                stop = at + length
                if start != _ZERO:
                    revisions.append((contents[at:stop], start, None if end == _ZERO else end))
                elif length or end != _ZERO:
                    break
                else:
                    revisions.append(None)
                at = stop
            else:
                if at == len(contents):
                    return revisions
    raise UnrecognizedResult('the server answered load_batch with something that is no batch of revisions')
