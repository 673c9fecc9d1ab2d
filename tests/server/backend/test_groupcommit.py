"""D2, D3, D4: a FileStorage whose commits share syncs."""
from __future__ import annotations

import contextlib
import errno
import hashlib
import inspect
import io
import os
import shutil
import threading

import pytest
from persistent.mapping import PersistentMapping
from ZODB import DB
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.POSException import StorageError
from ZODB.serialize import referencesf
from ZODB.utils import maxtid, p64, z64

from zeo_clone.loop.core import Loop
from zeo_clone.loop.runtime import Runtime
from zeo_clone.server.backend.groupcommit import QUICK_S, RECENT, GroupCommitStorage, Syncer

RECORD = b'cN\nN\n.N.'


class Disk(Runtime):
    """The real files; what was synced is kept as a loss of power would leave it."""

    def __init__(self):
        self.synced = {}  # by inode: the bytes that are on the disk
        self.directories = 0
        self.failing = 0  # so many syncs fail
        self.gate = None  # a sync waits for it
        self.waiting = threading.Event()  # a sync has come to the gate
        self.lock_ = threading.Lock()

    def fsync(self, fd):
        if self.gate is not None:
            self.waiting.set()
            self.gate.wait()
        with self.lock_:
            if self.failing:
                self.failing -= 1
                raise OSError(5, 'Input/output error')
        os.fsync(fd)
        status = os.fstat(fd)
        if os.path.isdir(f'/proc/self/fd/{fd}'):
            self.directories += 1
        else:
            self.synced[status.st_ino] = status.st_size

    def on_disk(self, path):
        """How many bytes of the file would be there after a loss of power."""
        return self.synced.get(os.stat(path).st_ino, 0)


@pytest.fixture
def disk():
    return Disk()


@pytest.fixture
def storage(tmp_path, disk):
    storage = GroupCommitStorage(str(tmp_path / 'Data.fs'), runtime=disk)
    with contextlib.closing(storage):
        yield storage


def vote(storage, oid=1, data=RECORD, serial=z64):
    meta = TransactionMetaData('jane', 'writes')
    storage.tpc_begin(meta)
    storage.store(p64(oid), serial, data, '', meta)
    storage.tpc_vote(meta)
    return meta


def test_lines_of_zodb_that_are_replaced_are_known():
    """A ZODB that ends a commit in another way wants to be read before it is used."""
    known = {'3c9d50ec0dda'}
    source = inspect.getsource(FileStorage._finish_finish).encode()
    assert hashlib.sha256(source).hexdigest()[:12] in known


def test_commits_share_a_sync(storage, disk, tmp_path):
    """D2: they are there for the next commit at once, and durable after one sync for all."""
    before, size = storage.durable, disk.on_disk(tmp_path / 'Data.fs')
    first = storage.finish_later(vote(storage))
    second = storage.finish_later(vote(storage, serial=first))
    assert storage.durable == before
    assert disk.on_disk(tmp_path / 'Data.fs') == size
    assert storage.loadBefore(p64(1), b'\x7f' + b'\xff' * 7)[1] == second
    assert storage.sync() == storage.durable == second
    assert disk.on_disk(tmp_path / 'Data.fs') == os.path.getsize(tmp_path / 'Data.fs') == storage.getSize()


def test_a_plain_commit_is_durable_when_it_returns_with_all_before_it(storage, disk, tmp_path):
    """D4: whoever calls ``tpc_finish`` gets what ZODB promises."""
    storage.finish_later(vote(storage))
    tid = storage.tpc_finish(vote(storage, oid=2))
    assert storage.durable == tid
    assert disk.on_disk(tmp_path / 'Data.fs') == storage.getSize()


def test_name_of_a_new_file_is_synced(tmp_path, disk):
    """D4: or the whole file would not be there."""
    with contextlib.closing(GroupCommitStorage(str(tmp_path / 'Data.fs'), runtime=disk)):
        assert disk.directories == 1


def test_what_a_killed_process_has_not_synced_is_synced_when_the_file_is_opened(storage, disk, tmp_path):
    """D2: it is shown from then on."""
    tid = storage.finish_later(vote(storage))
    copy = tmp_path / 'copy.fs'
    shutil.copy(tmp_path / 'Data.fs', copy)  # as another process finds it
    with contextlib.closing(GroupCommitStorage(str(copy), runtime=disk)) as again:
        assert again.durable == tid
        assert disk.on_disk(copy) == again.getSize()


def test_while_a_sync_takes_its_time_others_read_and_commit(storage, disk):
    """D1, D2: and what ends meanwhile is not called durable by it."""
    first = storage.finish_later(vote(storage))
    disk.gate = threading.Event()
    durable = []
    thread = threading.Thread(target=lambda: durable.append(storage.sync()))
    thread.start()
    disk.waiting.wait()
    try:
        assert storage.loadBefore(p64(1), b'\x7f' + b'\xff' * 7)[1] == first
        second = storage.finish_later(vote(storage, serial=first))
    finally:
        disk.gate.set()
        thread.join()
    assert durable == [first]
    assert storage.durable == first
    assert storage.sync() == second


def test_nothing_is_durable_after_a_sync_that_failed(storage, disk):
    """D3: a second sync would succeed without having written what the first has lost."""
    before = storage.durable
    tid = storage.finish_later(vote(storage))
    disk.failing = 1
    with pytest.raises(OSError, match='Input/output error'):
        storage.sync()
    with pytest.raises(OSError, match='Input/output error'):
        storage.sync()
    assert storage.durable == before
    with pytest.raises(StorageError, match='takes no more transactions, for it could not be synced.*restart'):
        storage.tpc_begin(TransactionMetaData())
    assert storage.loadBefore(p64(1), b'\x7f' + b'\xff' * 7)[1] == tid  # readers go on


@pytest.mark.parametrize('meanwhile', [False, True], ids=['before', 'meanwhile'])
def test_after_a_sync_that_failed_no_pack_removes_what_clients_see(storage, disk, tmp_path, meanwhile):
    """D3: nobody sees the transaction that was not synced, but what was before it."""
    def fail():
        disk.failing = 1
        with pytest.raises(OSError):
            storage.sync()

    def references(record):
        if meanwhile.pop():
            fail()
        meanwhile.append(False)
        return referencesf(record)

    meanwhile = [meanwhile]
    changed(storage)
    data, serial, _ = storage.loadBefore(p64(1), maxtid)
    tid = storage.finish_later(vote(storage, 1, data, serial))
    if not meanwhile[0]:
        fail()
    inode = os.stat(tmp_path / 'Data.fs').st_ino
    with pytest.raises(StorageError, match='not packed, for it could not be synced.*restart'):
        storage.pack(disk.time() + 10, references)
    assert os.stat(tmp_path / 'Data.fs').st_ino == inode
    assert storage.loadBefore(p64(1), tid) == (data, serial, tid)


def test_a_pack_that_was_cut_short_is_not_followed_by_a_new_file(storage, tmp_path):
    """D4: a loss of power may take the second of the two renames."""
    changed(storage)
    size = storage.getSize()
    storage.close()
    path = tmp_path / 'Data.fs'
    path.rename(tmp_path / 'Data.fs.old')
    (tmp_path / 'Data.fs.pack').touch()
    with pytest.raises(StorageError, match=r'cut short.*Rename .*\.old'):
        GroupCommitStorage(str(path))
    assert not path.exists()
    (tmp_path / 'Data.fs.old').rename(path)
    again = GroupCommitStorage(str(path))
    assert again.getSize() == size
    again.close()


@pytest.mark.parametrize('another', ['sync', 'sync_at_once'])
def test_of_two_syncs_at_once_none_misses_the_error_of_the_other(tmp_path, another):
    """D3: the system tells an error once, to whoever asks first."""
    class Seen:
        """A lock; `met` is set when somebody finds it taken."""

        def __init__(self):
            self.lock = threading.Lock()
            self.acquire, self.release, self.locked = self.lock.acquire, self.lock.release, self.lock.locked

        def __enter__(self):
            if self.lock.locked():
                met.set()
            self.lock.acquire()

        def __exit__(self, *_):
            self.lock.release()

    class Failing(Disk):
        failed = None

        def lock(self):
            return Seen()

        def fsync(self, fd):
            if self.failed is None:
                super().fsync(fd)
            elif self.failed:  # it has been told
                met.set()
            else:
                self.failed = True
                began.set()
                met.wait()
                raise OSError(5, 'Input/output error')

    began, met = threading.Event(), threading.Event()
    disk = Failing()
    storage = GroupCommitStorage(str(tmp_path / 'Data.fs'), runtime=disk)
    before = storage.durable
    storage.finish_later(vote(storage))
    disk.failed = False
    errors = []

    def sync(name):
        try:
            getattr(storage, name)()
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=sync, args=(name,)) for name in ('sync', another)]
    threads[0].start()
    began.wait()
    threads[1].start()
    for thread in threads:
        thread.join()
    assert len(errors) == 2 and storage.durable == before
    storage.close()


def test_a_sync_without_a_descriptor_of_its_own(storage, disk):
    """D2: when the process has no more of them."""
    def dup(fd):
        raise OSError(24, 'Too many open files')

    disk.dup = dup
    tid = storage.finish_later(vote(storage))
    assert storage.sync() == storage.durable == tid


def test_index_names_nothing_that_is_not_durable(storage, disk, tmp_path):
    """D4: FileStorage believes it when it opens the file."""
    tid = storage.finish_later(vote(storage))
    with storage._lock:
        storage._save_index()
    assert storage.durable == tid
    assert disk.on_disk(tmp_path / 'Data.fs') == storage.getSize()


def test_index_is_left_as_it_was_if_the_file_cannot_be_synced(storage, disk, tmp_path):
    """D3, D4."""
    storage.finish_later(vote(storage))
    before = (tmp_path / 'Data.fs.index').read_bytes()
    disk.failing = 1
    with pytest.raises(OSError):
        storage.sync()
    storage.close()
    assert (tmp_path / 'Data.fs.index').read_bytes() == before


def test_close_syncs(disk, tmp_path):
    """D4."""
    storage = GroupCommitStorage(str(tmp_path / 'Data.fs'), runtime=disk)
    tid = storage.finish_later(vote(storage))
    storage.close()
    assert storage.durable == tid
    assert disk.on_disk(tmp_path / 'Data.fs') == os.path.getsize(tmp_path / 'Data.fs')
    storage.close()


def changed(storage, times=3):
    """A database with something to pack."""
    db = DB(storage)
    with db.transaction() as connection:
        connection.root()['x'] = PersistentMapping()
    for number in range(times):
        with db.transaction() as connection:
            connection.root()['x']['y'] = number
    return db


def test_pack_puts_a_file_that_is_on_the_disk_into_its_place(storage, disk, tmp_path):
    """D4: with its name, before a commit after it is durable."""
    changed(storage)
    old, names = os.stat(tmp_path / 'Data.fs').st_ino, disk.directories
    storage.pack(storage._runtime.time() + 10, referencesf)
    assert os.stat(tmp_path / 'Data.fs').st_ino != old
    assert disk.on_disk(tmp_path / 'Data.fs') == storage.getSize()
    assert disk.directories == names
    storage.finish_later(vote(storage, oid=99))
    storage.sync()
    assert disk.directories == names + 1


def test_pack_amid_a_sync(disk, tmp_path):
    """D2: the commit is in another file by then; that is synced as well."""
    class Packed(GroupCommitStorage):
        def _save_index(self):
            super()._save_index()
            replaced.set()  # a pack does that last

    replaced = threading.Event()
    storage = Packed(str(tmp_path / 'Data.fs'), runtime=disk)
    changed(storage)
    tid = storage.finish_later(vote(storage, oid=99))
    disk.gate = gate = threading.Event()
    syncing = threading.Thread(target=storage.sync)
    syncing.start()
    disk.waiting.wait()
    disk.gate = None
    replaced.clear()
    packing = threading.Thread(target=storage.pack, args=(
        disk.time() + 10, lambda record, oids=None: [p64(99), *referencesf(record, oids)]))
    packing.start()
    replaced.wait()
    gate.set()
    syncing.join()
    packing.join()
    assert storage.durable == tid
    assert disk.on_disk(tmp_path / 'Data.fs') == storage.getSize()
    storage.close()


def test_pack_whose_file_cannot_be_synced_changes_nothing(storage, disk, tmp_path):
    """D4: and others commit afterwards."""
    changed(storage)
    before, size = os.stat(tmp_path / 'Data.fs').st_ino, storage.getSize()
    disk.failing = 1
    with pytest.raises(OSError):
        storage.pack(disk.time() + 10, referencesf)
    assert (os.stat(tmp_path / 'Data.fs').st_ino, storage.getSize()) == (before, size)
    storage.tpc_finish(vote(storage, oid=99))
    assert not (tmp_path / 'Data.fs.pack').exists()


def test_given_packer_is_used(tmp_path, disk):
    asked = []

    def packer(storage, referencesf, stop, gc):
        asked.append((storage, gc))

    storage = GroupCommitStorage(str(tmp_path / 'Data.fs'), runtime=disk, packer=packer, pack_gc=False)
    with contextlib.closing(storage):
        changed(storage)
        storage.pack(disk.time() + 10, referencesf)
    assert asked == [(storage, False)]


def test_read_only_one_syncs_nothing(storage, tmp_path):
    storage.tpc_finish(vote(storage))
    other = Disk()
    other.failing = 1
    reader = GroupCommitStorage(str(tmp_path / 'Data.fs'), runtime=other, read_only=True)
    with contextlib.closing(reader):
        assert reader.durable == storage.durable
    assert other.failing == 1


# ---- the thread ---------------------------------------------------------------------------------

@pytest.fixture
def loop(disk):
    with contextlib.closing(Loop(disk)) as loop:
        yield loop


@pytest.fixture
def told():
    return []


@pytest.fixture
def syncer(loop, storage, told):
    syncer = Syncer(storage, loop.runtime, loop.door, lambda tid, error: told.append((tid, error)))
    yield syncer
    syncer.end()


def turn_until(loop, condition):
    while not condition():
        loop.turn(None)


def test_commits_of_one_sync_are_told_at_once(loop, storage, disk, syncer, told):
    """D2: those that end while a sync is under way share the next one."""
    disk.gate = gate = threading.Event()
    first = storage.finish_later(vote(storage))
    syncer.request()
    disk.waiting.wait()
    last = first
    for _ in range(3):
        last = storage.finish_later(vote(storage, serial=last))
        syncer.request()
    gate.set()
    turn_until(loop, lambda: told and told[-1][0] == last)
    assert told == [(first, None), (last, None)]


def test_error_of_a_sync_is_told(loop, storage, disk, syncer, told):
    """D3."""
    storage.finish_later(vote(storage))
    disk.failing = 1
    syncer.request()
    turn_until(loop, lambda: told)
    [(tid, error)] = told
    assert tid is None
    assert isinstance(error, OSError)


def test_what_was_requested_is_synced_at_the_end(loop, storage, disk, told):
    """D4."""
    syncer = Syncer(storage, loop.runtime, loop.door, lambda tid, error: told.append((tid, error)))
    disk.gate = gate = threading.Event()
    syncer.request()
    tid = storage.finish_later(vote(storage))
    syncer.request()
    gate.set()
    assert syncer.end() == storage.durable == tid
    assert syncer.end() == tid


def test_quick_syncs_are_known(storage, disk, syncer):
    """D2: what takes no time is not worth a change of threads."""
    now = [0.0]

    def take(seconds):
        real = Runtime.fsync

        def fsync(fd):
            now[0] += seconds
            real(fd)
        disk.fsync = fsync
        storage.finish_later(vote(storage, oid=storage.getSize()))
        syncer.sync_at_once()

    disk.monotonic = lambda: now[0]
    assert syncer.quick
    take(QUICK_S / 2)
    take(QUICK_S / 2)
    for _ in range(RECENT - 2):
        take(0.004)
        assert syncer.quick, 'the machine was busy with something else'
    take(0.004)
    assert not syncer.quick
    take(QUICK_S / 2)
    take(QUICK_S / 2)
    assert syncer.quick


class FullFile(io.FileIO):
    """On a disk that takes `room` bytes more."""

    room = 0

    def write(self, data):
        if not self.room:
            raise OSError(errno.ENOSPC, 'no space left')
        written = super().write(bytes(data[:self.room]))
        self.room -= written
        return written


def test_nothing_is_left_of_a_vote_for_which_there_was_no_room(tmp_path):
    """D3: what others have read meanwhile and what was buffered does not show in a later transaction."""
    path = str(tmp_path / 'Data.fs')
    storage = GroupCommitStorage(path)
    with contextlib.closing(storage):
        def vote(oid, data):
            meta = TransactionMetaData()
            storage.tpc_begin(meta)
            storage.store(p64(oid), z64, data, '', meta)
            storage.tpc_vote(meta)
            return meta

        storage.tpc_finish(vote(1, b'first'))
        size = storage.getSize()
        full = FullFile(path, 'r+')
        full.room = 20_000  # not for what is buffered last
        storage._file.close()
        storage._file = io.BufferedRandom(full)
        with pytest.raises(OSError, match='no space left'):
            vote(2, b'x' * 20_000)
        assert os.path.getsize(path) == size
        assert storage.loadBefore(p64(1), maxtid)[0] == b'first'
        storage.tpc_abort(storage.tpc_transaction())
        full.room = 1 << 20
        storage.tpc_finish(vote(3, b'third'))
        assert storage.loadBefore(p64(3), maxtid)[0] == b'third'
    with contextlib.closing(GroupCommitStorage(path)) as again:
        assert [record.oid for transaction in again.iterator() for record in transaction] == [p64(1), p64(3)]
