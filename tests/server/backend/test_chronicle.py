"""Undo logs and histories as the server reads them: the same as the storage's own, some at a time."""
from __future__ import annotations

import shutil
import sys
import threading
import time

import pytest
from ZODB.blob import BlobStorage
from ZODB.Connection import TransactionMetaData
from ZODB.DemoStorage import DemoStorage
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import POSKeyError, StorageError, UndoError
from ZODB.utils import p64, z64

from tests.server.desk import Desk
from zeo_clone.loop.runtime import REAL
from zeo_clone.server.backend import chronicle, iterators
from zeo_clone.server.backend.abilities import Abilities
from zeo_clone.zrpc import marshal
from zeo_clone.zrpc.allowed import Prefix

OID = p64(1)
ALL = sys.maxsize


class Slices(FileStorage):
    """One that is asked for its log as any other storage."""

    def undoLog(self, first=0, last=-20, filter=None):
        return super().undoLog(first, last, filter)


def commit(storage, user, number, extension=None):
    meta = TransactionMetaData(user, b'number %d' % number, extension)
    storage.tpc_begin(meta)
    for oid in (OID, p64(1000 + number)):
        try:
            serial = storage.getTid(oid)
        except POSKeyError:
            serial = z64
        storage.store(oid, serial, b'x' * (1 + number), '', meta)
    storage.tpc_vote(meta)
    return storage.tpc_finish(meta)


@pytest.fixture(scope='module')
def path(tmp_path_factory):
    """Thirty transactions of three users, one with an extension, and the undoing of the last one."""
    path = tmp_path_factory.mktemp('grown') / 'Data.fs'
    storage = FileStorage(str(path))
    users = [b'/folder anna', b'/folder/inner bert', b'/other carl']
    for number in range(30):
        commit(storage, users[number % 3], number, {'color': 'red'} if number == 7 else None)
    meta = TransactionMetaData(b'/other undoer', b'undo')
    storage.tpc_begin(meta)
    storage.undo(storage.undoLog(0, 1)[0]['id'], meta)
    storage.tpc_vote(meta)
    storage.tpc_finish(meta)
    storage.close()
    return path


@pytest.fixture(params=[FileStorage, Slices])
def storage(request, tmp_path, path):
    shutil.copy(path, tmp_path)
    storage = request.param(str(tmp_path / 'Data.fs'), pack_gc=False)
    yield storage
    storage.close()


def chronicle_of(storage):
    return chronicle.Chronicle(storage, Abilities(storage), REAL)


def undoable(storage, *args):
    return [entry for entry in chronicle_of(storage).undoable(*args) if entry is not None]


@pytest.mark.parametrize('first, last', [
    (0, 20), (0, -20), (5, 9), (5, -9), (0, ALL), (0, -ALL), (25, 100), (100, 200), (9, 3), (0, 0)])
@pytest.mark.parametrize('specification', [
    None, {}, {'user_name': b'/other carl'}, {'user_name': b'nobody'}, {'color': 'red'},
    {'user_name': Prefix('/folder')}, {'user_name': Prefix('/folder'), 'description': b'number 3'}])
def test_an_undo_log_is_that_of_the_storage(storage, first, last, specification):
    """L11."""
    expected = storage.undoInfo(first, last, specification)
    assert undoable(storage, first, last, specification) == expected


@pytest.mark.parametrize('size', [0, 1, 2, 10, 1000, ALL])
def test_a_history_is_that_of_the_storage(storage, size):
    """L11: also where a transaction was undone, and what its extension tells."""
    assert list(chronicle_of(storage).revisions(OID, size)) == storage.history(OID, size)


def test_a_history_of_nothing_is_an_unknown_key(storage):
    with pytest.raises(POSKeyError):
        list(chronicle_of(storage).revisions(p64(77), 5))


class Versions(MappingStorage):
    """Still has, where others have the size, what ZODB had once."""

    iterator = None  # there is no other way to its history

    def history(self, oid, version=None, size=1):
        assert version is None
        return super().history(oid, size)


def test_the_size_of_a_history_is_not_taken_for_something_else():
    """RelStorage has such a one."""
    desk = Desk({'1': Versions()})
    client = desk.connect()
    serial = client.commit(OID)
    client.commit(OID, serial=serial)
    assert len(client.call('history', OID, 2)) == 2


def test_what_a_pack_left_is_told(storage):
    """The log ends where the storage was packed."""
    times = [entry['time'] for entry in storage.undoLog(10, 12)]
    storage.pack(sum(times) / 2, lambda record: [])
    assert undoable(storage, 0, ALL, None) == storage.undoLog(0, ALL)
    assert 0 < len(storage.undoLog(0, ALL)) < 30


def test_while_a_storage_is_packed_there_is_no_undo_log(storage):
    storage._pack_is_in_progress = True
    with pytest.raises(UndoError):
        undoable(storage, 0, ALL, None)


@pytest.mark.parametrize('reads', [
    lambda storage: (chronicle_of(storage).undoable(0, ALL, None), storage.undoLog(0, ALL)),
    lambda storage: (chronicle_of(storage).revisions(OID, ALL), storage.history(OID, ALL))])
def test_who_reads_the_past_keeps_nobody_from_committing(storage, reads):
    """S11, D1: nor does what is committed meanwhile confuse who reads."""
    entries, expected = reads(storage)
    begun = [next(entries)]
    run_in_thread(commit, storage, b'other', 31)
    assert [*begun, *filter(None, entries)] == expected


def run_in_thread(function, *args):
    thread = threading.Thread(target=function, args=args)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()


def test_a_storage_that_is_packed_meanwhile_is_read_to_the_end(storage):
    entries = chronicle_of(storage).revisions(OID, ALL)
    expected = storage.history(OID, ALL)
    got = [next(entries)]
    storage.pack(time.time() + 1, lambda record: [])
    assert len([*got, *entries]) == len(expected)


def test_a_storage_around_another_tells_what_that_tells(storage, tmp_path):
    outer = BlobStorage(str(tmp_path / 'blobs'), storage)
    assert undoable(outer, 3, 9, {}) == storage.undoLog(3, 9)
    assert list(chronicle_of(outer).revisions(OID, ALL)) == storage.history(OID, ALL)


def test_a_storage_of_two_layers_has_one_history(tmp_path):
    base = FileStorage(str(tmp_path / 'Data.fs'))
    tids = [commit(base, b'', number) for number in range(3)]
    storage = DemoStorage(base=base)
    tids.append(commit(storage, b'', 4))
    assert [entry['tid'] for entry in chronicle_of(storage).revisions(OID, ALL)] == tids[::-1]
    storage.close()


# ---- in one answer ------------------------------------------------------------------------------

def whole(entries, most=chronicle.ALL, unwanted=lambda: False):
    steps = chronicle.in_one_answer(iter(entries), most, unwanted)
    try:
        while True:
            next(steps)
    except StopIteration as end:
        return end.value and marshal.loads(b'\x80\x03' + b''.join(end.value.pieces) + b'.')


def test_an_answer_has_all_entries():
    entries = [{'id': number} for number in range(2500)]
    assert whole([None, *entries, None]) == entries
    assert whole([]) == []


def test_an_answer_has_a_bound(monkeypatch):
    """L11, S14: an error that says what to do, not a connection that is dropped."""
    entries = [{'id': b'x' * 100}] * 100
    monkeypatch.setattr(chronicle, 'MAX_ANSWER', 5000)
    with pytest.raises(StorageError, match='more than 4. entries, too many .* fewer at a time'):
        whole(entries)


def test_what_our_clients_would_refuse_is_not_sent_to_them():
    """L11: their older versions ask for all at once too."""
    entries = [{'id': number} for number in range(100_000)]
    with pytest.raises(StorageError, match='too many'):
        whole(entries, chronicle.OURS // 4)
    assert len(whole(entries)) == 100_000


def test_nobody_is_answered_who_has_gone():
    """S14: the rest of the log is not read."""
    read = []
    assert whole((read.append(1) for _ in range(1000)), unwanted=lambda: len(read) > 3) is None
    assert len(read) == 4


# ---- over the wire ------------------------------------------------------------------------------

@pytest.fixture
def desk(storage):
    desk = Desk({'1': storage})
    yield desk
    desk.close()


@pytest.fixture
def client(desk):
    return desk.connect()


def all_of(client, start, *args, size=500):
    """Everything in batches, and how many these were."""
    iid, found, batches, done = client.call(start, *args), [], 0, False
    while not done:
        done, entries = client.call('entry_batch', iid, size)
        found += entries
        batches += 1
    with pytest.raises(KeyError):
        client.call('entry_batch', iid, size)
    return found, batches


def test_clients_are_told_that_there_are_batches(client):
    assert 'entry_batch' in client.call('get_info')['extensions']


@pytest.mark.parametrize('count', [sys.maxsize, -sys.maxsize, 1 << 63, -(1 << 63), 1 << 200, 999_999_999_999])
def test_counts_of_any_size_mean_all(client, storage, count):
    """L11."""
    log = storage.undoLog(0, ALL)
    assert client.call('undoLog', 0, count) == client.call('undoInfo', 0, count, None) == log
    assert all_of(client, 'undo_iterator', 0, count, None)[0] == log
    if count > 0:
        assert client.call('history', OID, count) == storage.history(OID, ALL)
        assert all_of(client, 'history_iterator', OID, count)[0] == storage.history(OID, ALL)


def test_batches_are_as_large_as_was_asked_for(client, storage):
    """L11."""
    found, batches = all_of(client, 'undo_iterator', 2, 22, None)
    assert found == storage.undoLog(2, 22)
    assert 4 <= batches <= 10
    assert all_of(client, 'undo_iterator', 2, 22, None, size=1 << 20)[1] == 1


def test_a_batch_ends_when_its_time_is_over(client, storage, monkeypatch):
    """S14: also when nothing was found, so that nobody has a thread for long."""
    monkeypatch.setattr(iterators, 'SLICE_S', -1.0)
    specification = {'description': b'number 3'}
    found, batches = all_of(client, 'undo_iterator', 0, ALL, specification)
    assert found == storage.undoInfo(0, ALL, specification)
    assert batches > 20 or type(storage) is Slices


def test_an_error_ends_the_iterator(client, storage):
    iid = client.call('history_iterator', OID, 5) if type(storage) is FileStorage else None
    unknown = client.call('history_iterator', p64(77), 5)
    for _ in range(2):
        with pytest.raises(KeyError):
            client.call('entry_batch', unknown, 5000)
    assert iid is None or client.call('entry_batch', iid, 5000)[0]


def test_one_that_is_not_read_to_the_end_can_be_forgotten(client, monkeypatch):
    """S5b."""
    monkeypatch.setattr(iterators, 'MAX_OPEN', 2)
    for _ in range(5):
        iid = client.call('undo_iterator', 0, ALL, None)
        client.call('entry_batch', iid, 1)
        client.oneway('iterator_gc', [iid])


def test_what_a_storage_lacks_is_unsupported():
    client = Desk({'1': MappingStorage()}).connect()
    for name, args in [('undo_iterator', (0, 5, None)), ('undoInfo', (0, 5))]:
        with pytest.raises(Exception, match='the storage has no undoLog'):
            client.call(name, *args)
