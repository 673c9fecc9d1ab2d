"""Packs of one storage: one at a time, and none that meets what it cannot read (S10, L12).

In: a time, and for whom.  Out: nothing, or an exception.  A record that cannot be read might refer to
anything; so a pack that meets one ends before anything is removed, and says which object that is.  `run`
belongs to a thread for packs, the rest to the loop's.
"""
from __future__ import annotations

from functools import partial
from typing import Any

from ZODB.FileStorage.fspack import PackError
from ZODB.POSException import StorageError, StorageTransactionError

from zeo_clone.loop.runtime import Runtime
from zeo_clone.server.backend.abilities import Abilities
from zeo_clone.server.backend.blobfiles import BlobFiles
from zeo_clone.server.backend.finished import transactions
from zeo_clone.server.backend.guard import Guard
from zeo_clone.server.backend.references import UnreadableRecord, references
from zeo_clone.server.backend.sizes import Sizes
from zeo_clone.server.stats import Stats
from zeo_clone.wording import format_moment, of_server, quoted


class Packing:
    """The packs of `storage`, which messages call `name`."""

    def __init__(self, name: str, storage: Any, abilities: Abilities, guard: Guard, files: BlobFiles,
                 sizes: Sizes, stats: Stats, runtime: Runtime) -> None:
        self._name = name
        self._storage = storage
        self._abilities = abilities
        self._guard = guard
        self._files = files
        self._sizes = sizes
        self._stats = stats
        self._runtime = runtime
        self._client = ''  # who asked for the pack that is under way

    def __repr__(self) -> str:
        return f'<Packing of {self._name!r}, {"under way" if self.under_way else "none"}>'

    @property
    def under_way(self) -> bool:
        """Is it being packed, or will it be when it is its turn?"""
        return self._stats.packing_time is not None

    def start(self, client: str) -> None:
        """`client` has it packed, or will when it is its turn.  Raises StorageTransactionError, which every
        client knows, if somebody has it packed already (L12).
        """
        since = self._stats.packing_time
        if since is not None:
            then = self._runtime.time() - (self._runtime.monotonic() - since)
            raise StorageTransactionError(
                f'already packing since {format_moment(then)}, asked for by {self._client}: storage '
                f'{self._name!r} is packed once at a time; ask again when that has ended')
        self._stats.packing_time, self._client = self._runtime.monotonic(), client
        self._files.pack_begins()
        self._sizes.packing(True)

    def stop(self) -> None:
        """The pack is done, or has failed."""
        self._stats.packing_time = None
        self._files.pack_ends()
        self._sizes.packing(False)

    # ---- a thread for packs -----------------------------------------------------------------------

    def run(self, time: float) -> None:
        """Pack it to `time`, seconds since the epoch."""
        self._files.finish_pack()
        before = self._inode()
        try:
            self._guard.pack(partial(self._storage.pack, time, references))
        except UnreadableRecord as error:
            raise StorageError(
                f'nothing was packed: {self._place_of(error.record)} cannot be read, so that nobody knows to '
                f'what it refers ({error}); store the object anew or delete it, or pack without looking for '
                "garbage ('pack-gc false' of the storage)") from error
        except PackError as error:
            raise StorageError(
                f'nothing was packed: what the pack would have removed was needed again meanwhile, by a '
                f'transaction that was undone; pack again ({error})') from error
        except OSError as error:
            if self._inode() not in (before, 0):
                raise OSError(error.errno, f'storage {self._name!r} is packed, but the server could not '
                                           f'clear up after that; the next pack, or start of the server, '
                                           f'does: {error}') from error
            raise of_server(error, 'the server cannot pack') from error

    def _inode(self) -> int:
        """A pack puts another file into the place of the storage's; 0 if there is none."""
        file = self._abilities.file
        return 0 if file is None or not self._runtime.exists(file) else self._runtime.stat(file).st_ino

    def _place_of(self, record: bytes) -> str:
        """Which object has `record`.  It costs to read the storage once, which a pack does anyway."""
        if self._abilities.has('iterator'):
            for transaction in transactions(self._storage):
                for found in transaction:
                    if found.data == record:
                        return f'object 0x{found.oid.hex()} of transaction 0x{found.tid.hex()}'
        return f'a record that begins with {quoted(record, 50)}'
