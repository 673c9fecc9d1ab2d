"""A FileStorage whose commits can share syncs: the same file, the same format (D2, D3).

ZODB's own syncs the file within ``tpc_finish``, under its locks, once for each commit.  Here `finish_later`
ends a commit without that, and `sync` then does it for all that have ended, outside of the locks: loads go
on, and so does the next commit, up to its own end.  After ``tpc_finish`` the transaction is on the disk, as
ever.

In: the calls of a storage; `sync`, from any thread.  Out: the tid of the last transaction that is durable.
What is not durable yet is in the file and in the index, as the next commit has to see it; whom else to show
it is the caller's business.

After a sync that failed nobody knows what is on the disk, and a second one would not tell: the system drops
what it could not write.  So nothing later is ever called durable, and no transaction begins any more (D3).
"""
from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

from ZODB.FileStorage import FileStorage
from ZODB.POSException import StorageError

from zeo_clone.loop.meanwhile import meanwhile
from zeo_clone.loop.runtime import REAL, Runtime
from zeo_clone.server.backend.abilities import check_whole
from zeo_clone.server.backend.horizon import CurrentRecords

#: How often the file that a pack writes is synced, in seconds: commits wait for the last of these syncs.
PACK_SYNC_S = 1.0
#: Syncs that take no longer, in seconds, are not worth a change of threads ...
QUICK_S = 0.0003
#: ... as the quicker ones of so many were lately: on a busy machine it is not the disk that makes some long.
RECENT = 8


class GroupCommitStorage(FileStorage):  # type: ignore[misc]
    """A FileStorage; takes what that takes."""

    _file: Any  # these four are ZODB's
    _pos: int
    _ltid: bytes
    _index_get: Callable[[bytes], int | None]

    def __init__(self, file_name: str, create: bool = False, *args: Any, blob_dir: str | None = None,
                 runtime: Runtime = REAL, packer: Any = None, **keywords: Any) -> None:
        self._runtime = runtime
        self._pack_file = packer or FileStorage.packer
        self._later = False  # the commit that ends just now is synced by others
        self._sync_lock = runtime.lock()  # protects against two syncs at once; taken before the storage's own
        self._sync_failure: OSError | None = None
        self._named: object = None  # the open file whose name in the directory is on the disk
        #: The tid of the last transaction that is known to be on the disk.
        self.durable: bytes | None = None
        self._packed = False  # the index is to be saved
        self._pack_lock = PackLock(runtime)
        self._current: CurrentRecords | None = None  # of an index that was the storage's
        if not create:
            check_whole(runtime, file_name, blob_dir)
        super().__init__(file_name, create, *args, blob_dir=blob_dir, **keywords)
        self._commit_lock = lock = self._pack_lock
        self._commit_lock_acquire, self._commit_lock_release = lock.acquire, lock.release
        if not self._is_read_only:
            try:
                self._sync_under_lock()  # whoever was killed may have left what he has not synced
            except BaseException:
                super().close()  # nobody else can: the caller gets no storage
                raise
        self.durable = self._ltid

    # ---- the thread that commits ------------------------------------------------------------------

    def tpc_begin(self, transaction: Any, tid: bytes | None = None, status: str = ' ') -> None:
        """Raises StorageError after a sync that has failed."""
        if self._sync_failure is not None:
            self._check_synced('takes no more transactions')
        super().tpc_begin(transaction, tid, status)

    def _check_synced(self, refusal: str) -> None:
        if self._sync_failure is not None:
            raise StorageError(
                f'{self._file_name} {refusal}, for it could not be synced: {self._sync_failure}. Look after '
                f'the disk, then restart the server') from self._sync_failure

    def tpc_vote(self, transaction: Any) -> Any:
        """As ZODB's.  If the file cannot be written, nothing is left of the transaction, not even in buffers.

        ZODB truncates the file, which fails too while the disk is full: Python first writes what it has
        buffered.  Then the files that are read keep what they had read beyond the end, and loads find that in
        place of what is written there later.
        """
        try:
            return super().tpc_vote(transaction)
        except OSError:
            with self._lock:
                anew: Any = self._runtime.open(self._file_name, 'r+b')
                self._file.raw.close()  # without what is buffered
                self._file = anew
                self._file.truncate(self._pos)
                self._files.flush()
            raise

    def finish_later(self, transaction: Any) -> bytes:
        """``tpc_finish`` without the sync; the tid.  The transaction is durable when `sync` says so."""
        self._later = True
        try:
            tid: bytes = self.tpc_finish(transaction)
        finally:
            self._later = False
        return tid

    def _finish_finish(self, tid: bytes) -> None:
        """As ZODB's, but for where it syncs.  Its lock is held."""
        self._file.flush()
        if not self._later:
            self._sync_under_lock()
        self._pos = self._nextpos
        self._index.update(self._tindex)
        self._ltid = tid
        if not self._later:
            self.durable = tid
        self._blob_tpc_finish()

    # ---- any thread -------------------------------------------------------------------------------

    def sync(self) -> bytes:
        """Return when all that was finished before the call is on the disk: the last of its tids.

        Raises OSError, and from then on each time.
        """
        with self._sync_lock:
            return self._sync()

    def _sync(self) -> bytes:
        while True:
            with self._lock:
                if self._sync_failure is not None:
                    raise self._sync_failure
                tid, file = self._ltid, self._file
                if tid == self.durable:
                    return tid
                try:
                    fd = self._runtime.dup(file.fileno())  # a pack may close the file meanwhile
                except OSError:  # there is no descriptor left
                    return self._sync_at_once()
            try:
                self._sync_file(file, fd)
            finally:
                self._runtime.close_fd(fd)
            with self._lock:
                if self._file is file:  # and not another one that a pack has put into its place
                    self.durable = max(tid, self.durable or b'')
                    return tid

    def sync_at_once(self) -> bytes:
        """The same where a sync takes no time: the storage's lock is held meanwhile, as in ``tpc_finish``."""
        with self._sync_lock:  # of two syncs of a file the system tells an error to one
            return self._sync_at_once()

    def _sync_at_once(self) -> bytes:
        with self._lock:
            tid: bytes = self._ltid
            if tid != self.durable:
                self._sync_under_lock()
                self.durable = tid
            return tid

    def _sync_under_lock(self) -> None:
        if self._sync_failure is not None:
            raise self._sync_failure
        self._sync_file(self._file, self._file.fileno())

    def _sync_file(self, file: object, fd: int) -> None:
        """Sync an open file of the database, and its name if that is new."""
        try:
            self._runtime.fsync(fd)
            if self._named is not file:
                self._runtime.sync_directory(os.path.dirname(self._file_name))
                self._named = file
        except OSError as error:
            self._sync_failure = error
            raise

    # ---- packing, the index, the end --------------------------------------------------------------

    def pack_in_turn(self, turns: Turns) -> None:
        """From now on packs wait for their turn among the commits, and not the commits' thread for them."""
        self._pack_lock.turns = turns

    def pack(self, t: float, referencesf: Any, gc: bool | None = None) -> None:
        """As ZODB's, but no sync is under the storage's lock, for which loads wait.

        Raises StorageError after a sync that has failed: what was finished then is hidden, and what a pack
        would remove for it is what clients see.
        """
        with self._pack_lock.in_pack():
            self._check_synced('is not packed')
            super().pack(t, referencesf, gc)
            if self._packed:
                self._packed = False
                with self._commit_lock, contextlib.suppress(OSError):  # without one the file is read at start
                    self.sync()  # and nothing is finished before the index is saved
                    with self._lock:
                        super()._save_index()

    def packer(self, storage: Any, referencesf: Any, stop: bytes, gc: bool) -> Any:
        """ZODB's own leaves a new file that is not on the disk, to take the place of one that is.

        In: nothing is locked.  Out: with the commit lock, unless there is nothing to pack.
        """
        path = self._file_name + '.pack'
        with meanwhile(self._runtime, PACK_SYNC_S, partial(self._sync_some, path), 'zeo-server-pack-sync'):
            packed = self._pack_file(storage, referencesf, stop, gc)
        if packed is not None:
            try:
                self._check_synced('is not packed')
                self._runtime.sync_file(path)
            except BaseException:
                with contextlib.suppress(OSError):
                    self._runtime.remove(path)  # nobody needs it any more
                self._commit_lock.release()
                raise
        return packed

    def _sync_some(self, path: str) -> None:
        with contextlib.suppress(OSError):  # the last sync tells
            self._runtime.sync_file(path)

    def _save_index(self) -> None:
        """The index is believed when the file is opened: nothing is in it that a loss of power would take.

        The storage's lock is held, or nobody has the storage yet.
        """
        if self._pack_lock.in_pack_thread:
            self._packed = True  # `pack` saves it
            return
        if self.durable is not None and self._ltid != self.durable:
            try:
                self._sync_under_lock()
            except OSError:
                return  # the one of before is as good
            self.durable = self._ltid
        super()._save_index()

    # ---- the thread that loads --------------------------------------------------------------------

    def current(self) -> CurrentRecords | None:
        """Where current records are read; None if that is not possible now."""
        current = self._current
        return current if current is not None and current.find is self._index_get else self._open_current()

    def _open_current(self) -> CurrentRecords | None:
        before, self._current = self._current, None
        if before is not None:
            before.close()
        try:
            with self._files.get():  # meanwhile nobody replaces the file or the index
                file = self._runtime.open(self._file_name, 'rb', 0)
                self._current = CurrentRecords(self._index_get, file, self._runtime.pread)
        except (OSError, ValueError):  # no descriptors; or it is closed
            pass
        return self._current

    # ---- the end ----------------------------------------------------------------------------------

    def close(self) -> None:
        """What was finished is synced before, unless a sync has failed."""
        try:
            with self._lock:
                done = self._file.closed or self._is_read_only or self._sync_failure is not None
                if not done and self._ltid != self.durable:
                    self._sync_under_lock()
                    self.durable = self._ltid
        finally:
            current, self._current = self._current, None
            try:
                super().close()  # which may find no room for what an aborted transaction has left in buffers
            finally:
                if current is not None:
                    current.close()


def has_quick_reads(storage: object) -> bool:
    """Are its `current` records what its ``loadBefore`` has?  Not where somebody changes them on the way."""
    return isinstance(storage, GroupCommitStorage) and type(storage).loadBefore is FileStorage.loadBefore


class Turns(Protocol):
    """The order in which the loop's thread lets commits begin."""

    def take_turn(self) -> None:
        """Wait, in another thread, until no commit is under way; none begins before `end_turn`."""

    def end_turn(self) -> None:
        """Commits begin again."""


class PackLock:
    """A storage's commit lock.  A thread that packs takes it only when it is its turn, so that nobody who
    commits finds it taken.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._lock = runtime.lock()  # protects the storage's commits from each other, and from a pack's end
        self._packers: set[int] = set()  # the threads that pack
        #: Who says whose turn it is; None: nobody but the lock.
        self.turns: Turns | None = None

    def __repr__(self) -> str:
        return f'<PackLock {self._lock!r}>'

    @contextlib.contextmanager
    def in_pack(self) -> Iterator[None]:
        """The thread packs."""
        ident = self._runtime.get_ident()
        self._packers.add(ident)
        try:
            yield
        finally:
            self._packers.discard(ident)

    @property
    def in_pack_thread(self) -> bool:
        """Is the calling thread packing?"""
        return bool(self._packers) and self._runtime.get_ident() in self._packers

    def acquire(self) -> bool:
        """As the method of a lock."""
        if self._packers and self.turns is not None and self.in_pack_thread:
            self.turns.take_turn()
        return self._lock.acquire()

    def release(self) -> None:
        """As the method of a lock."""
        self._lock.release()
        if self._packers and self.turns is not None and self.in_pack_thread:
            self.turns.end_turn()

    def locked(self) -> bool:
        """As the method of a lock: whoever sees to a failure asks whether it is held (L9)."""
        return bool(self._lock.locked())

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Syncer:
    """The thread that syncs `storage` whenever `request` was called, and calls `synced`, through the `door`
    of a loop: with the last tid that is durable by then, or with the error of a sync that has failed.

    Loop thread, apart from what runs under the banner.
    """

    def __init__(self, storage: GroupCommitStorage, runtime: Runtime,
                 door: Callable[[Callable[[], object]], object],
                 synced: Callable[[bytes | None, Exception | None], None]) -> None:
        self._storage = storage
        self._runtime = runtime
        self._door = door
        self._synced = synced
        self._thread: Any = None
        self._change = runtime.condition()  # protects _requested and _closed
        self._requested = False
        self._closed = False
        self._recent_s: deque[float] = deque(maxlen=RECENT)  # what syncs took

    @property
    def quick(self) -> bool:
        """Are syncs so quick that it is best to wait for them?"""
        recent = self._recent_s.copy()  # the thread may append
        if len(recent) > 1 and recent[-1] <= QUICK_S and recent[-2] <= QUICK_S:
            return True
        shortest = sorted(recent)[:2] or [0.0]
        return shortest[-1] <= QUICK_S

    def sync_at_once(self) -> bytes:
        """Sync all that is finished, and wait for it; the last tid.  Raises OSError."""
        return self._timed(self._storage.sync_at_once)

    def _timed(self, sync: Callable[[], bytes]) -> bytes:
        now = self._runtime.monotonic
        since = now()
        tid = sync()
        self._recent_s.append(now() - since)  # atomic
        return tid

    def request(self) -> None:
        """Have all that is finished by now synced."""
        with self._change:
            self._requested = True
            self._change.notify()
        if self._thread is None:
            self._thread = self._runtime.start_thread(self._run, 'zeo-server-group-commit')

    def end(self, timeout_s: float | None = None) -> bytes | None:
        """Do what was requested, in `timeout_s` at most: what is durable then.  May be called twice."""
        with self._change:
            self._closed = True
            self._change.notify()
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self._storage.durable

    # ---- the thread -------------------------------------------------------------------------------

    def _run(self) -> None:
        while self._take():
            try:
                told = partial(self._synced, self._timed(self._storage.sync), None)
            except Exception as error:
                told = partial(self._synced, None, error)
            self._door(told)

    def _take(self) -> bool:
        with self._change:
            while not self._requested and not self._closed:
                self._change.wait()
            requested, self._requested = self._requested, False
            return requested
