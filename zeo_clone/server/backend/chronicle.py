"""What a storage tells of its past, undo logs and histories of objects, some at a time (L11).

In: a storage and what is wanted of its past.  Out: generators of entries, newest first, with None in between
where there was none for a while.  Worker threads only.

A FileStorage keeps its lock while it reads a history, however long, and with it everybody who commits.  It is
read here through an open file of our own, from the position that it has now; what is written later goes
behind that, and a pack leaves an open file as it is.  Other storages are asked for slices of their logs.
"""
from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator
from typing import IO, Any

from persistent.TimeStamp import TimeStamp
from ZODB.FileStorage.FileStorage import UndoSearch
from ZODB.FileStorage.format import FileStorageFormatter
from ZODB.POSException import POSError, StorageError
from ZODB.utils import maxtid, u64

from zeo_clone.loop.runtime import Runtime
from zeo_clone.server.backend.abilities import Abilities
from zeo_clone.server.backend.descriptions import look_up
from zeo_clone.server.backend.horizon import Horizon
from zeo_clone.zrpc import extensions
from zeo_clone.zrpc.decoder import MAX_OPCODES
from zeo_clone.zrpc.marshal import Encoded, ListEncoder
from zeo_clone.zrpc.slices import in_slices

#: Bytes of a log in one message at most, for clients that do not ask for it in batches.
MAX_ANSWER = 64 << 20
#: Where the first transaction of a FileStorage begins.
FIRST = 4

Entry = dict[str, Any]


class Chronicle:
    """The logs of `storage`; of a FileStorage, up to its `horizon`."""

    def __init__(self, storage: Any, abilities: Abilities, runtime: Runtime,
                 horizon: Horizon | None = None) -> None:
        self._storage = storage
        self._abilities = abilities
        self._runtime = runtime
        self._hides = _nothing if horizon is None else horizon.hides

    def undoable(self, first: int, last: int, specification: Entry | None) -> Iterator[Entry | None]:
        """The entries `first` to `last` of the undo log that have the values of `specification`.

        A negative `last` is how many there shall be at most.
        """
        storage = self._storage
        if last < 0:
            last = first - last
        if self._abilities.has_own_undo_log:
            return _undoable_in_file(self._runtime, storage, first, last, specification, self._hides)
        if specification:
            return in_slices(lambda start, stop: storage.undoInfo(start, stop, specification), first, last)
        return in_slices(storage.undoLog, first, last)

    def revisions(self, oid: bytes, size: int) -> Iterator[Entry | None]:
        """The newest `size` revisions of an object.  Raises POSKeyError, at once or later."""
        if self._abilities.has_own_history:
            return _revisions_in_file(self._runtime, self._storage, oid, size, self._hides)
        return iter(self.history(oid, size))

    def history(self, oid: bytes, size: int) -> list[Entry]:
        """As the storage tells it, or read from its transactions if it cannot: for an extension that is an
        object it would need the object's class."""
        try:
            found: list[Entry] = self._storage.history(oid, size=size)
        except (POSError, OSError):
            raise
        except Exception:
            if not self._abilities.has('iterator'):
                raise
            return look_up(self._storage, oid, size)
        return [entry for entry in found if not self._hides(entry['tid'])]


def _nothing(tid: bytes) -> bool:
    return False


def _undoable_in_file(runtime: Runtime, storage: Any, first: int, last: int, specification: Entry | None,
                      hides: Callable[[bytes], bool]) -> Generator[Entry | None, None, None]:
    storage.undoLog(0, 0)  # raises UndoError while it is packed
    with storage._lock:
        file, position = runtime.open(storage._file_name, 'rb'), storage._pos
    with file:
        position = _end_of_what_is_shown(file, position, hides)
        search = UndoSearch(file, position, first, last, _matching(specification))
        while not search.finished():
            search.search()
            yield search.results.pop() if search.results else None


def _end_of_what_is_shown(file: IO[bytes], position: int, hides: Callable[[bytes], bool]) -> int:
    """Where the last transaction ends that is not hidden.  An entry does not tell which one it is: an
    extension may have an ``id`` of its own."""
    while hides(maxtid) and position > FIRST:
        file.seek(position - 8)
        start = position - 8 - u64(file.read(8))  # a transaction ends with its length
        file.seek(start)
        if not hides(file.read(8)):  # and begins with its tid
            break
        position = start
    return position


def _matching(specification: Entry | None) -> Callable[[Entry], bool] | None:
    if not specification:
        return None
    wanted = list(specification.items())
    return lambda entry: not any(entry.get(key) != value for key, value in wanted)


class _Reader(FileStorageFormatter):  # type: ignore[misc]
    """Reads headers from a file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file


def _revisions_in_file(runtime: Runtime, storage: Any, oid: bytes, size: int,
                       hides: Callable[[bytes], bool]) -> Generator[Entry, None, None]:
    with storage._lock:
        position = storage._lookup_pos(oid)
        file = runtime.open(storage._file_name, 'rb')
    with file:
        reader = _Reader(file)
        while position and size > 0:
            data = reader._read_data_header(position)
            transaction = reader._read_txn_header(data.tloc)
            entry: Entry = extensions.read(transaction.ext)
            entry.update(time=TimeStamp(data.tid).timeTime(), user_name=transaction.user,
                         description=transaction.descr, tid=data.tid, size=data.plen)
            position = data.prev
            if not hides(data.tid):
                yield entry
                size -= 1


def in_one_answer(entries: Iterator[Entry | None], most_values: int, unwanted: Callable[[], bool],
                  with_rich: bool = False) -> Generator[None, None, Encoded | None]:
    """Encodes all `entries`, in steps.  Raises StorageError if there are too many for one message.

    It ends without a result as soon as nobody wants it.
    """
    encoder = ListEncoder(with_rich)
    for entry in entries:
        if unwanted():
            return None
        if entry is not None:
            encoder.add(entry)
            if encoder.size > MAX_ANSWER or encoder.values > most_values:
                raise StorageError(f'the answer has more than {encoder.count - 1} entries, too many for one '
                                   f'message; ask for fewer at a time')
        yield
    return encoder.encoded()


#: As `most_values`: for clients of ours, which refuse a message that has more; and for others.
OURS, ALL = MAX_OPCODES, sys.maxsize
