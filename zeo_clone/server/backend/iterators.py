"""Iterators over transactions, their records, and entries of logs that a client has open.

In: calls with the ids of iterators.  Out: transactions and records as plain tuples, entries encoded.
Everything but `close` runs in a worker thread, one call of a session at a time, since an iterator may read
a long way before it finds something (L6).  Bounded in number (S5b); a client that forgets to end one has it
ended with its session (C16).
"""
from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from ZODB.POSException import StorageError

from zeo_clone.loop.runtime import Runtime
from zeo_clone.server.backend.workers import SLICE_S
from zeo_clone.steps import take_steps
from zeo_clone.zrpc.extensions import to_send
from zeo_clone.zrpc.marshal import Encoded, ListEncoder

#: Iterators that a session may have open.
MAX_OPEN = 1000
#: A batch of transactions ends when it has this many bytes, or as many records as fit into these.
MAX_BATCH = 16 << 20
#: What a transaction or a record costs besides its data.
OVERHEAD = 300


class Transactions(NamedTuple):
    """An open iterator over transactions."""

    source: Any  # what may have a close()
    iterator: Iterator[Any]
    current: list[Any]  # the transaction that was handed out last, or nothing


class Records(NamedTuple):
    """An open iterator over the records of a transaction."""

    iterator: Iterator[Any]


class Entries(NamedTuple):
    """An open iterator over an undo log or a history, as `chronicle` has them."""

    source: Any  # what may have a close()
    iterator: Iterator[Any]


class Iterators:
    """The iterators of one session."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._ids = itertools.count()
        self._lock = runtime.lock()  # protects _open, and each iterator while it is advanced
        self._open: dict[int, Transactions | Records | Entries] = {}
        self._closed = False
        self.with_rich = False  # the client takes extensions as they are stored

    def __len__(self) -> int:
        return len(self._open)

    # ---- loop thread ------------------------------------------------------------------------------

    def close(self) -> None:
        """The session has ended.  Does not wait for a call that is running: that ends them itself."""
        self._closed = True
        self._end_if_closed()

    def known(self, iterator_ids: Iterable[int]) -> list[int]:
        """Those that are open, once each."""
        return list(dict.fromkeys(number for number in iterator_ids if number in self._open))

    # ---- any thread -------------------------------------------------------------------------------

    def _end_if_closed(self) -> None:
        # Whoever has the lock looks once more after it has let go of it.
        if self._closed and self._lock.acquire(blocking=False):
            try:
                self._end_all()
            finally:
                self._lock.release()

    # ---- worker thread ----------------------------------------------------------------------------

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """One of the functions below, alone."""
        try:
            with self._lock:
                return function(self, *args)
        finally:
            self._end_if_closed()

    def _end_all(self) -> None:
        self.forget(list(self._open))

    def _forget(self, iterator_id: int) -> None:
        entry = self._open.pop(iterator_id, None)
        if isinstance(entry, (Transactions, Entries)):
            end(entry.source)

    def _add(self, entry: Transactions | Records | Entries) -> int:
        iterator_id = next(self._ids)
        self._open[iterator_id] = entry
        return iterator_id

    def _check_room(self) -> None:
        if len(self._open) >= MAX_OPEN:
            raise StorageError(f'{MAX_OPEN} iterators are open already; end some with iterator_gc')

    def _get(self, iterator_id: int, kind: type) -> Any:
        entry = self._open.get(iterator_id)
        if type(entry) is not kind:
            raise KeyError(iterator_id)
        return entry

    def start(self, iterator: Callable[..., Any], start: bytes | None, stop: bytes | None) -> int:
        """Iterate over transactions, with the storage's ``iterator``; the iterator's id."""
        self._check_room()
        source = iterator(start, stop)
        try:
            return self._add(Transactions(source, iter(source), []))
        except BaseException:
            end(source)
            raise

    def next(self, iterator_id: int) -> tuple[Any, ...] | None:
        """``(tid, status, user, description, extension)``, or None at the end, which ends the
        iterator.
        """
        entry = self._get(iterator_id, Transactions)
        entry.current.clear()
        for transaction in entry.iterator:
            entry.current.append(transaction)
            return transaction_tuple(transaction, self.with_rich)
        self._forget(iterator_id)
        return None

    def start_records(self, iterator_id: int, tid: bytes) -> int:
        """Iterate over the records of the transaction that `next` gave last; the iterator's id."""
        self._check_room()
        current = self._get(iterator_id, Transactions).current
        if not current or current[0].tid != tid:
            raise StorageError('records can only be asked for of the transaction that was given last')
        return self._add(Records(iter(current[0])))

    def next_record(self, iterator_id: int) -> tuple[Any, ...] | None:
        """``(oid, tid, data, data_txn)``, or None at the end, which ends the iterator."""
        for record in self._get(iterator_id, Records).iterator:
            return record_tuple(record)
        self._forget(iterator_id)
        return None

    def batch(self, iterator_id: int, size: int) -> list[tuple[Any, Any]]:
        """The next transactions, at least one, until there are `size` bytes: ``[(as from next,
        records)]``.

        `records` is a list as from `next_record`; None for a transaction that is too large for a
        message: it is the last one of the batch, and its records can be asked for.  Empty at the end,
        which ends the iterator.
        """
        entry = self._get(iterator_id, Transactions)
        entry.current.clear()
        batch, left = [], min(size, MAX_BATCH)
        for transaction in entry.iterator:
            entry.current[:] = [transaction]
            records, used = read_records(transaction)
            batch.append((transaction_tuple(transaction, self.with_rich), records))
            left -= used
            if left <= 0:
                break
        if not batch:
            self._forget(iterator_id)
        return batch

    def start_entries(self, make: Callable[..., Iterator[Any]], *args: Any) -> int:
        """Iterate over what ``make(*args)`` returns; the iterator's id."""
        self._check_room()
        source = make(*args)
        return self._add(Entries(source, source))

    def entries(self, iterator_id: int, size: int) -> Encoded:
        """The next entries, until there are `size` bytes or the time is over: ``(at the end?, [entry])``.

        Where few are wanted of many there may be none before the end.  The end ends the iterator, an error
        too.
        """
        entry, clock = self._get(iterator_id, Entries), self._runtime.monotonic
        encoder = ListEncoder(self.with_rich)
        size, until = min(size, MAX_BATCH), clock() + SLICE_S
        try:
            for one in entry.iterator:
                if one is not None:
                    encoder.add(one)
                if encoder.size >= size or clock() >= until:
                    return encoder.encoded(False)
        except BaseException:
            self._forget(iterator_id)
            raise
        self._forget(iterator_id)
        return encoder.encoded(True)

    def forget(self, iterator_ids: Iterable[int]) -> None:
        """The client is done with these; unknown ones have ended already."""
        for iterator_id in iterator_ids:
            self._forget(iterator_id)


def end(source: Any) -> None:
    """Close what a storage has given to iterate over, if it can be closed.  Never raises (C21): what it has
    told is true all the same."""
    take_steps('the end of an iterator', getattr(source, 'close', lambda: None))


def transaction_tuple(transaction: Any, with_rich: bool) -> tuple[Any, ...]:
    """A transaction as it travels."""
    return (transaction.tid, transaction.status, transaction.user, transaction.description,
            to_send(transaction, with_rich))


def record_tuple(record: Any) -> tuple[Any, ...]:
    """A record as it travels."""
    return record.oid, record.tid, record.data, record.data_txn


def read_records(transaction: Any) -> tuple[list[tuple[Any, ...]] | None, int]:
    """All records of a transaction, and their size; None instead of more than `MAX_BATCH` bytes."""
    records, size = [], OVERHEAD
    for record in transaction:
        size += OVERHEAD + len(record.data or b'')
        if size > MAX_BATCH:
            return None, size
        records.append(record_tuple(record))
    return records, size
