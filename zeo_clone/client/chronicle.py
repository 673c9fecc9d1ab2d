"""Undo logs and histories of any length (L11).

In: what an application wants of them; a link.  Out: lists of entries.  What is short is one question.  What
is long comes in batches from a server that offers them; others are asked for slices.  Application threads.
"""
from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Generator
from itertools import islice
from typing import Any

from zeo_clone.client.link import Link
from zeo_clone.Exceptions import ClientStorageError, UnrecognizedResult
from zeo_clone.zrpc.channel.client import ClientChannel
from zeo_clone.zrpc.offers import ENTRY_BATCH
from zeo_clone.zrpc.slices import in_slices

#: So many entries are asked for in one question.
SHORT = 1000
#: Bytes of a batch.
BATCH_SIZE = 256 << 10
#: A server without batches is asked for so many revisions at most: each may have 50 of the 1,000,000 opcodes
#: of a message.
MOST_REVISIONS = 20_000

Entry = dict[str, Any]


def is_short(first: int, last: int) -> bool:
    """Is this part of a log one question?  A negative `last` is the number of entries."""
    return (-last if last < 0 else last - first) <= SHORT


def undo_log(channel: ClientChannel, link: Link, first: int, last: int, specification: Any = None,
             wanted: Callable[[Entry], Any] | None = None) -> list[Entry]:
    """The entries `first` to `last` of those that match `specification` and that are `wanted`."""
    stop = min(first - last if last < 0 else last, sys.maxsize)
    if wanted is None:
        return list(_undoable(channel, link, first, stop, specification))
    entries = _undoable(channel, link, 0, sys.maxsize, specification)
    with contextlib.closing(entries):
        return list(islice(filter(wanted, entries), max(first, 0), max(stop, 0)))


def history(channel: ClientChannel, link: Link, oid: bytes, size: int) -> list[Entry]:
    """The newest `size` revisions of an object."""
    size = min(size, sys.maxsize)
    if link.offers(ENTRY_BATCH):
        return list(_batches(channel, link, 'history_iterator', oid, size))
    revisions = _checked(channel.call('history', (oid, min(size, MOST_REVISIONS))))
    if len(revisions) == MOST_REVISIONS < size:
        raise ClientStorageError(f'the object has {MOST_REVISIONS} revisions or more, and this server '
                                 f' asked for more: give a smaller size')
    return revisions


def _undoable(channel: ClientChannel, link: Link, first: int, last: int, specification: Any
              ) -> Generator[Entry, None, None]:
    if link.offers(ENTRY_BATCH):
        return _batches(channel, link, 'undo_iterator', first, last, specification)
    return in_slices(lambda start, stop: _checked(channel.call('undoInfo', (start, stop, specification))),
                     first, last)


def _batches(channel: ClientChannel, link: Link, start: str, *args: Any) -> Generator[Entry, None, None]:
    iid, done = channel.call(start, args), False
    try:
        while not done:
            reply = channel.call(ENTRY_BATCH, (iid, BATCH_SIZE))
            if type(reply) is not tuple or len(reply) != 2:
                raise UnrecognizedResult('the server sent something that is no batch of entries')
            done = bool(reply[0])
            yield from _checked(reply[1])
    finally:
        if not done:
            link.forgotten.append(iid)
            link.forget_iterators()


def _checked(entries: Any) -> list[Entry]:
    if type(entries) is not list or not all(type(entry) is dict for entry in entries):
        raise UnrecognizedResult('the server sent something that is no list of entries')
    return entries
