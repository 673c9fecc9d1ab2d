"""D2: how far clients see, with a storage that a test fills and of which the last transactions are hidden."""
from __future__ import annotations

import io
from contextlib import closing

import pytest
from zc.zlibstorage import ZlibStorage
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import POSKeyError
from ZODB.utils import maxtid, p64, u64, z64

from zeo_clone.server.backend.horizon import HEAD_SIZE, CurrentRecords, Horizon

OLD, CHANGED, NEW, LATER = (p64(number) for number in (1, 2, 3, 4))


class Storage(MappingStorage):
    """Counts objects up, and knows blobs by name."""

    def record_iternext(self, next=None):
        oids = sorted(self._data)
        place = 0 if next is None else oids.index(next)
        data, tid = self.load(oids[place])
        return oids[place], tid, data, (*oids, None)[place + 1]

    def loadBlob(self, oid, serial):
        return f'{u64(oid)}.blob'


def commit(storage, **data):
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    for oid, serial, value in data.values():
        storage.store(oid, serial, value, '', meta)
    storage.tpc_vote(meta)
    return storage.tpc_finish(meta)


@pytest.fixture
def storage():
    """Two objects; then one is changed, and two are new."""
    storage = Storage()
    storage.first = commit(storage, a=(OLD, z64, b'old'), b=(CHANGED, z64, b'before'))
    storage.second = commit(storage, a=(CHANGED, storage.first, b'after'), b=(NEW, z64, b'new'),
                            c=(LATER, z64, b'new'))
    return storage


@pytest.fixture
def horizon(storage):
    horizon = Horizon(storage)
    assert 'open' in repr(horizon)
    horizon.hidden = storage.second
    assert storage.second.hex() in repr(horizon)
    return horizon


class Moment:
    """A storage's lock.  Just before somebody gets it, something happens."""

    def __init__(self, lock, happens):
        self._lock = lock
        self._happens = happens

    def __enter__(self):
        happens, self._happens = self._happens, lambda: None
        happens()
        return self._lock.__enter__()

    def __exit__(self, *error):
        return self._lock.__exit__(*error)


@pytest.mark.parametrize('around', [lambda storage: storage, ZlibStorage], ids=['alone', 'around'])
def test_what_is_finished_while_an_iterator_is_made_is_hidden(tmp_path, around):
    """D2: a worker asks for it while the loop commits."""
    with closing(FileStorage(str(tmp_path / 'Data.fs'))) as storage:
        horizon = Horizon(around(storage))
        first = commit(storage, a=(OLD, z64, b'old'))

        def finish():
            horizon.hidden = commit(storage, a=(NEW, z64, b'new'))

        storage._lock = Moment(storage._lock, finish)
        with closing(horizon.iterator()) as found:
            assert [transaction.tid for transaction in found] == [first]
        assert horizon.hides(storage.lastTransaction())


def test_what_is_hidden_has_not_happened(storage, horizon):
    """D2: for whoever asks for what is current, or for anything by its tid."""
    first, second = storage.first, storage.second
    assert horizon.loadBefore(CHANGED, maxtid) == (b'before', first, None)
    assert horizon.loadBefore(OLD, maxtid) == (b'old', first, None)
    assert horizon.loadBefore(OLD, first) is None
    assert horizon.getTid(CHANGED) == first
    assert horizon.loadSerial(CHANGED, first) == b'before'
    assert horizon.loadBlob(CHANGED, first) == '2.blob'
    assert [one.tid for one in horizon.iterator()] == [first]
    for ask in (lambda: horizon.loadBefore(NEW, maxtid), lambda: horizon.getTid(NEW),
                lambda: horizon.loadSerial(CHANGED, second), lambda: horizon.loadBlob(CHANGED, second)):
        with pytest.raises(POSKeyError):
            ask()


def test_the_way_through_all_objects_passes_those_that_are_new(storage, horizon):
    """D2: and ends at the last that is there."""
    first = storage.first
    assert horizon.record_iternext() == (OLD, first, b'old', CHANGED)
    assert horizon.record_iternext(CHANGED) == (CHANGED, first, b'before', None)
    with pytest.raises(ValueError, match='no more objects'):
        horizon.record_iternext(NEW)
    horizon.hidden = None
    assert horizon.record_iternext(CHANGED) == (CHANGED, storage.second, b'after', NEW)


def test_what_is_on_the_disk_is_seen(storage, horizon):
    """D2."""
    horizon.hidden = None
    assert horizon.loadBefore(CHANGED, maxtid) == (b'after', storage.second, None)
    assert horizon.getTid(NEW) == storage.second
    assert len(list(horizon.iterator())) == 2


class File(io.BytesIO):
    def fileno(self):
        return 99


@pytest.mark.parametrize(('content', 'cut', 'found'), [
    (b'data', 0, b'data'), (b'x' * 5000, 0, b'x' * 5000), (b'', 0, None),
    (b'data', 1, None), (b'x' * 5000, 1, None), (b'data', 5, None)])
def test_a_record_is_read_whole_or_in_the_way_of_zodb(content, cut, found):
    """D2: one that is damaged, cut, or not plain is none of ours."""
    head = OLD + p64(5) + bytes(16) + bytes(2) + p64(len(content))
    assert len(head) == HEAD_SIZE
    file = File(head + content)
    raw = file.getvalue()[:-cut or None]
    records = CurrentRecords({OLD: 0, NEW: 0}.get, file, lambda fd, size, at: raw[at:at + size])
    assert '99' in repr(records)
    assert records.load(OLD, maxtid) == (found and (found, p64(5), None))
    assert records.load(OLD, p64(5)) is None   # an older one is wanted
    assert records.load(NEW, maxtid) is None   # another object is there
    assert records.load(LATER, maxtid) is None
    records.close()
    assert file.closed
