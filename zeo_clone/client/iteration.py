"""Iteration: the transactions and records of the served storage, in few round trips.

An application's thread pulls; whole transactions are fetched ahead, in batches, from a server that
offers ``iterator_batch``; other servers are asked step by step.  An iterator belongs to the link on which
it began.
"""
from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import zope.interface
from ZODB.BaseStorage import DataRecord, TransactionRecord
from ZODB.interfaces import IStorageTransactionInformation

from zeo_clone.client.link import Link
from zeo_clone.client.notices import is_oid, is_tid
from zeo_clone.Exceptions import UnrecognizedResult
from zeo_clone.zrpc import extensions
from zeo_clone.zrpc.offers import ITERATOR_BATCH

#: Bytes of data asked for at once.
BATCH_SIZE = 1 << 20


@zope.interface.implementer(IStorageTransactionInformation)
class Transaction(TransactionRecord):  # type: ignore[misc]
    """A transaction; iterate over it for its records."""

    def __init__(self, link: Link, iid: int, description: tuple[Any, ...],
                 records: list[tuple[Any, ...]] | None) -> None:
        super().__init__(*description)
        self._link = link
        self._iid = iid
        self._records = records  # None: to be asked for

    @cached_property
    def extension(self) -> dict[Any, Any]:
        """As it can be read without importing what it names; ``extension_bytes`` is what is stored."""
        return extensions.read(self.extension_bytes)

    def __iter__(self) -> Iterator[DataRecord]:
        records = self._ask() if self._records is None else iter(self._records)
        for record in records:
            if type(record) is not tuple or len(record) != 4 or not is_oid(record[0]):
                raise UnrecognizedResult('the server sent something that is no record')
            yield DataRecord(*record)

    def _ask(self) -> Iterator[tuple[Any, ...]]:
        channel = self._link.channel
        rid = channel.call('iterator_record_start', (self._iid, self.tid))
        while (record := channel.call('iterator_record_next', (rid,))) is not None:
            yield record


class TransactionIterator:
    """Iterates over transactions from tid `start` to tid `stop`, both included."""

    def __init__(self, link: Link, start: bytes | None, stop: bytes | None) -> None:
        self._link = link
        self._channel = link.channel
        self._batches = ITERATOR_BATCH in link.info.get('extensions', ())
        self._ahead: deque[tuple[Any, Any]] = deque()
        link.forget_iterators()
        self._iid: int | None = self._channel.call('iterator_start', (start, stop))

    def __iter__(self) -> TransactionIterator:
        return self

    def __next__(self) -> Transaction:
        if not self._ahead:
            self._fetch()
        if not self._ahead:
            raise StopIteration
        description, records = self._ahead.popleft()
        if type(description) is not tuple or len(description) != 5 or not is_tid(description[0]):
            raise UnrecognizedResult('the server sent something that is no transaction')
        return Transaction(self._link, self._iid or 0, description, records)

    def _fetch(self) -> None:
        if self._iid is None:
            return
        if self._batches:
            self._ahead.extend(self._channel.call(ITERATOR_BATCH, (self._iid, BATCH_SIZE)))
            ended = not self._ahead
        else:
            description = self._channel.call('iterator_next', (self._iid,))
            ended = description is None
            if not ended:
                self._ahead.append((description, None))
        if ended:
            self._iid = None  # the server has forgotten it

    def __del__(self) -> None:
        # The collector may run while this thread holds any lock: only leave a note.
        iid = getattr(self, '_iid', None)
        if iid is not None:
            self._link.forgotten.append(iid)
