"""One pack of a storage (S10).

In: a storage and a time.  Out: nothing, or an exception.  A record that cannot be read might refer to
anything; so a pack that meets one ends before anything is removed, and says which object that is.  Runs in a
thread for packs; knows no client.
"""
from __future__ import annotations

from functools import partial
from typing import Any

from ZODB.POSException import StorageError

from zeo_clone.server.backend.guard import Guard
from zeo_clone.server.backend.references import UnreadableRecord, references


def pack(storage: Any, guard: Guard, time: float) -> None:
    """Pack `storage` to `time`, seconds since the epoch."""
    try:
        guard.pack(partial(storage.pack, time, references))
    except UnreadableRecord as error:
        raise StorageError(
            f'nothing was packed: {_place_of(error.record, storage)} cannot be read, so that nobody knows to '
            f'what it refers ({error}); store the object anew or delete it, or pack without looking for '
            "garbage ('pack-gc false' of the storage)") from error


def _place_of(record: bytes, storage: Any) -> str:
    """Which object has `record`.  It costs to read the storage once, which a pack does anyway."""
    if hasattr(storage, 'iterator'):
        for transaction in storage.iterator():
            for found in transaction:
                if found.data == record:
                    return f'object 0x{found.oid.hex()} of transaction 0x{found.tid.hex()}'
    return f'a record that begins with {record[:50]!r}'
