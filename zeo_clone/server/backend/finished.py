"""The transactions of a FileStorage while others are being written to its file.

In: a storage, perhaps one around a FileStorage.  Out: an iterator over its transactions, any thread.  ZODB's
own takes the end of the file for that of the last transaction.  Beside a commit it does not find the place to
begin at, and raises ValueError or AttributeError; or takes what is written for damaged records, and says so
in the log.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ZODB.FileStorage import FileStorage
from ZODB.FileStorage.FileStorage import FileIterator

#: Where the first transaction begins.
FIRST = 4
#: Where storages keep those that they are around.
INNER = ('base', 'changes')


class FinishedTransactions(FileIterator):  # type: ignore[misc]
    """Those in the file at `path` up to the place `end`."""

    _file: Any  # these four are ZODB's
    _file_size: int
    _pos: int
    _stop: bytes | None

    def __init__(self, path: str, end: int) -> None:
        super().__init__(path)
        self._file_size = end

    def limit(self, start: bytes | None, stop: bytes | None) -> None:
        """To those from `start` to `stop`; half the file is read for a start in the middle."""
        self._stop = stop
        if start and self._file_size > FIRST:
            try:
                self._skip_to_start(start)
            except BaseException:
                self.close()
                raise

    def __next__(self) -> Any:
        if self._pos >= self._file_size:
            self.close()
        return super().__next__()


class _Inner:
    """Stands for `storage` within another one."""

    def __init__(self, storage: Any, last: Callable[[], bytes | None]) -> None:
        self._storage = storage
        self._last = last

    def __getattr__(self, name: str) -> Any:
        return getattr(self._storage, name)

    def iterator(self, start: bytes | None = None, stop: bytes | None = None) -> Any:
        """Nothing that is not finished."""
        return transactions(self._storage, start, stop, self._last)


def _no_limit() -> None:
    return None


def transactions(storage: Any, start: bytes | None = None, stop: bytes | None = None,
                 last: Callable[[], bytes | None] = _no_limit) -> Any:
    """What `storage.iterator` gives, and of a FileStorage nothing that is not finished, nor later than `last`
    says, which is asked when it is known where the file ends."""
    iterator = storage.iterator
    owner: Any = getattr(iterator, '__self__', None)
    if getattr(iterator, '__func__', None) is FileStorage.iterator:  # also one that is handed on
        with owner._lock:  # a pack puts another file into the place of this one
            found = FinishedTransactions(owner._file_name, owner._pos)
        found.limit(start, _first_of(stop, last()))
        return found
    attributes = getattr(owner, '__dict__', {})
    inner = {name: _Inner(value, last) for name in INNER
             if hasattr(value := attributes.get(name), 'iterator')}
    if inner:
        kind: Any = type(owner)
        double = kind.__new__(kind)
        vars(double).update(attributes, **inner)
        return double.iterator(start, stop)
    return iterator(start, _first_of(stop, last()))


def _first_of(*tids: bytes | None) -> bytes | None:
    return min((tid for tid in tids if tid is not None), default=None)
