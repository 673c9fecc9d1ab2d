"""Current records read by one system call: what a FileStorage itself would have said, and nothing else."""
from __future__ import annotations

import os
import time

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage.FileStorage import CorruptedDataError
from ZODB.POSException import POSKeyError
from ZODB.serialize import referencesf
from ZODB.utils import maxtid, p64, z64

from zeo_clone.loop.runtime import Runtime
from zeo_clone.server.backend.groupcommit import GroupCommitStorage, has_quick_reads
from zeo_clone.server.backend.horizon import HEAD_SIZE, READ_SIZE, CurrentReader, Horizon

ROOT, ONE, LARGE, GONE, NONE = map(p64, range(5))
#: A record that refers to nothing.
RECORD = b'\x80\x03cpersistent.mapping\nPersistentMapping\nq\x00.\x80\x03}q\x00.'


class Counting(Runtime):
    """The real world; how often it reads, and whether there are descriptors."""

    def __init__(self):
        self.reads = 0
        self.full = False

    def pread(self, fd, length, at):
        self.reads += 1
        return os.pread(fd, length, at)

    def open(self, path, mode, buffering=-1):
        if self.full:
            raise OSError(24, 'Too many open files')
        return super().open(path, mode, buffering)


class Site:
    """A storage, and its records by the quick way and by ZODB's."""

    def __init__(self, path):
        self.runtime = Counting()
        self.storage = GroupCommitStorage(str(path), runtime=self.runtime)
        self.horizon = Horizon(self.storage)
        self.reader = CurrentReader(self.storage, self.horizon)

    def commit(self, oid, data, serial=z64, later=False):
        meta = TransactionMetaData()
        self.storage.tpc_begin(meta)
        self.storage.store(oid, serial, data, '', meta)
        self.storage.tpc_vote(meta)
        return (self.storage.finish_later if later else self.storage.tpc_finish)(meta)

    def undo(self, tid):
        meta = TransactionMetaData()
        self.storage.tpc_begin(meta)
        self.storage.undo(self.storage.undoLog(0, 1)[0]['id'], meta)
        self.storage.tpc_vote(meta)
        return self.storage.tpc_finish(meta)

    def reads(self, oid, before=maxtid):
        """What the quick way says, and how many reads that took."""
        self.runtime.reads = 0
        return self.reader.loadBefore(oid, before), self.runtime.reads


def said(storage, oid, before):
    try:
        return storage.loadBefore(oid, before)
    except POSKeyError as error:
        return str(error)


@pytest.fixture
def site(tmp_path):
    site = Site(tmp_path / 'Data.fs')
    yield site
    site.storage.close()


def test_a_current_record_takes_one_read_and_a_large_one_two(site):
    tid = site.commit(ONE, b'one')
    assert site.reads(ONE) == ((b'one', tid, None), 1)
    for size, reads in ((READ_SIZE - HEAD_SIZE, 1), (READ_SIZE, 2), (3_000_000, 2)):
        data = os.urandom(size)
        tid = site.commit(LARGE, data, tid if size > READ_SIZE - HEAD_SIZE else z64)
        assert site.reads(LARGE) == ((data, tid, None), reads)


def test_what_is_not_current_or_not_there_is_told_as_by_the_storage(site):
    first = site.commit(ONE, b'first')
    second = site.commit(ONE, b'second', first)
    created = site.commit(GONE, b'new')
    site.undo(created)
    third = site.commit(ONE, b'third', second)
    undone = site.undo(third)  # a record without data, that refers to another one
    for oid in (ROOT, ONE, GONE, NONE):
        for before in (first, second, third, undone, maxtid):
            assert said(site.reader, oid, before) == said(site.storage, oid, before)


def test_a_transaction_that_is_not_on_the_disk_is_not_seen(site):
    """D2."""
    first = site.commit(ONE, b'first')
    second = site.commit(ONE, b'second', first, later=True)
    site.horizon.hidden = second
    assert site.reader.loadBefore(ONE, maxtid) == (b'first', first, None)
    site.commit(GONE, b'new', later=True)
    with pytest.raises(POSKeyError):
        site.reader.loadBefore(GONE, maxtid)
    site.horizon.hidden = None
    assert site.reader.loadBefore(ONE, maxtid) == (b'second', second, None)


def test_after_a_pack_the_new_file_is_read_and_the_old_one_is_closed(site):
    site.commit(ROOT, RECORD)
    site.commit(ROOT, RECORD, site.storage.loadBefore(ROOT, maxtid)[1])
    before = site.storage.current()
    assert site.reads(ROOT)[1] == 1
    site.storage.pack(time.time() + 1, referencesf)
    tid = site.commit(ROOT, RECORD + b'.', site.storage.loadBefore(ROOT, maxtid)[1])
    assert site.reads(ROOT) == ((RECORD + b'.', tid, None), 1)
    assert site.storage.current() is not before
    assert before._file.closed


def test_of_a_closed_storage_nothing_is_read(site):
    site.commit(ONE, b'one')
    records = site.storage.current()
    site.storage.close()
    assert records._file.closed
    with pytest.raises(ValueError, match='closed'):
        site.reader.loadBefore(ONE, maxtid)


def test_without_descriptors_it_reads_as_zodb_does(site):
    """N12: a file of the pool is open already."""
    tid = site.commit(ONE, b'one')
    site.storage.loadBefore(ONE, maxtid)
    site.runtime.full = True
    assert site.reads(ONE) == ((b'one', tid, None), 0)
    site.runtime.full = False
    assert site.reads(ONE) == ((b'one', tid, None), 1)


def test_a_damaged_record_is_told_as_zodb_does(site, tmp_path):
    site.commit(ONE, b'one')
    place = site.storage._index[ONE]
    with open(tmp_path / 'Data.fs', 'r+b') as file:
        file.seek(place)
        file.write(b'damaged!')
    with pytest.raises(CorruptedDataError):
        site.reader.loadBefore(ONE, maxtid)


def test_a_storage_that_changes_records_on_the_way_is_asked_itself(site):
    class Own(GroupCommitStorage):
        def loadBefore(self, oid, tid):
            raise NotImplementedError

    assert has_quick_reads(site.storage)
    assert not has_quick_reads(Own.__new__(Own))
    assert not has_quick_reads(object())


class Full:
    """A file that has something in its buffers, and no room for it."""

    def close(self):
        raise OSError(28, 'No space left on device')


def test_a_file_that_cannot_be_closed_leaves_no_other_open(site, monkeypatch, tmp_path):
    """N12: ZODB's temporary file, after a commit that was given up because the disk is full."""
    site.commit(ONE, b'one')
    assert site.storage.current()
    monkeypatch.setattr(site.storage, '_tfile', Full())
    with pytest.raises(OSError, match='No space'):
        site.storage.close()
    assert str(tmp_path / 'Data.fs') not in [
        os.path.realpath(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd')]
