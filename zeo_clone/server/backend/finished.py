"""The transactions of a FileStorage while others are being written to its file.

In: a storage.  Out: an iterator over its transactions, any thread.  ZODB's own takes the end of the file for
that of the last transaction.  Beside a commit it does not find the place to begin at, and raises ValueError
or AttributeError; or takes what is written for damaged records, and says so in the log.
"""
from __future__ import annotations

from typing import Any

from ZODB.FileStorage import FileStorage
from ZODB.FileStorage.FileStorage import FileIterator

#: Where the first transaction begins.
FIRST = 4


class FinishedTransactions(FileIterator):  # type: ignore[misc]
    """Those in the file at `path` up to the place `end` and the tid `stop`."""

    _file: Any  # these three are ZODB's
    _file_size: int
    _pos: int

    def __init__(self, path: str, stop: bytes | None, end: int) -> None:
        super().__init__(path, None, stop)
        self._file_size = end

    def begin_at(self, start: bytes | None) -> None:
        """Go to the first that is not before `start`; half the file is read for one in the middle."""
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


def transactions(storage: Any, start: bytes | None = None, stop: bytes | None = None) -> Any:
    """What `storage.iterator` gives, and of a FileStorage nothing that is not finished."""
    if getattr(type(storage), 'iterator', None) is not FileStorage.iterator:
        return storage.iterator(start, stop)
    with storage._lock:  # a pack puts another file into the place of this one
        found = FinishedTransactions(storage._file_name, stop, storage._pos)
    found.begin_at(start)
    return found
