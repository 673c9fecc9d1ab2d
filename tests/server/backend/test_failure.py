"""C24, L9: a storage that fails at the very end of a commit, or when it is to give one up."""
from __future__ import annotations

import contextlib
import errno
import os
import sys
from functools import partial

import pytest
from persistent.TimeStamp import TimeStamp
from transaction.interfaces import TransientError
from ZODB.DemoStorage import DemoStorage
from ZODB.FileStorage import FileStorage
from ZODB.interfaces import IMultiCommitStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import ConflictError, POSError, StorageError
from ZODB.tests.hexstorage import HexStorage
from ZODB.utils import maxtid, p64, z64
from zope.interface import alsoProvides

from tests.server.desk import ClockRuntime, Desk
from zeo_clone.Exceptions import ClientDisconnected, CommitOutcomeUnknown

OIDS = [p64(number) for number in range(1, 5)]
TOKEN = bytes(16)
DISK = OSError(errno.EIO, 'the disk does not answer')


class File(FileStorage):
    """Its `_abort`, which cuts the file off, fails as often as it is told, and a pack, it seems, takes the
    lock as soon as it is free."""

    failures = 0
    with_pack = False

    def _abort(self):
        if self.failures:
            self.failures -= 1
            raise DISK
        super()._abort()

    def tpc_abort(self, transaction):
        try:
            super().tpc_abort(transaction)
        finally:
            if self.with_pack and not self._commit_lock.locked():
                self._commit_lock.acquire()


@pytest.fixture
def file_desk(tmp_path):
    storage = File(str(tmp_path / 'Data.fs'))
    desk = Desk({'1': storage, 'other': MappingStorage()})
    yield desk
    desk.close()
    storage.close()


def invalidations(client):
    return [args for name, args in client.take_notices() if name == 'invalidateTransaction']


def vote(client, oid=OIDS[0], transaction_id=7):
    client.begin(transaction_id)
    client.store(oid, transaction_id=transaction_id)
    return client.call('vote', transaction_id)


# ---- what the storage holds after a tpc_finish that raised -----------------------------------------

def outcome_after(desk, tpc_finish):
    """What a client with a token is told by tpc_finish, and then by commit_outcome."""
    client = desk.connect()
    client.call('identify', TOKEN, 0)
    vote(client)
    desk.storages['1'].tpc_finish = tpc_finish
    try:
        told = client.call('tpc_finish', 7)
    except Exception as error:
        told = error
    del desk.storages['1'].tpc_finish
    return told, client.call('commit_outcome', 7)


def test_an_error_after_the_storage_committed_is_a_commit(file_desk):
    """C24: a file that could not be renamed any more, say; the others are told."""
    storage = file_desk.storages['1']
    finish = type(storage).tpc_finish
    other = file_desk.connect()

    def committed_but(transaction):
        finish(storage, transaction)
        raise OSError(errno.EIO, 'just afterwards')
    told, outcome = outcome_after(file_desk, committed_but)
    assert told == storage.lastTransaction() > z64
    assert outcome == ('committed', told)
    assert invalidations(other) == [(told, [OIDS[0]])]
    assert 'tpc_finish' in file_desk.ruok()['1']['failed']
    assert other.commit(OIDS[1])


def test_an_error_before_anything_is_in_the_file_is_no_commit(file_desk):
    """C24, C11: and the client is told for sure."""
    def fails(transaction):
        raise OSError(errno.EIO, 'before')
    told, outcome = outcome_after(file_desk, fails)
    assert type(told) is OSError
    assert outcome == ('not committed', None)
    assert file_desk.connect().commit(OIDS[1])


def test_a_transaction_in_the_file_that_is_not_synced_is_in_doubt(file_desk, monkeypatch):
    """C24: after a restart it may be there or not."""
    storage = file_desk.storages['1']

    def no_sync(descriptor):
        raise OSError(errno.EIO, 'the disk does not answer')
    monkeypatch.setattr(sys.modules[FileStorage.__module__], 'fsync', no_sync)
    told, outcome = outcome_after(file_desk, storage.tpc_finish)
    assert type(told) is CommitOutcomeUnknown
    assert not isinstance(told, TransientError)
    assert 'the storage failed while it committed' in str(told)
    assert outcome == ('unknown', None)


def test_a_storage_that_can_tell_nothing_leaves_it_in_doubt(file_desk):
    """C24"""
    storage = file_desk.storages['1']

    def fails(*_):
        storage.lastTransaction = storage.tpc_transaction = fails
        raise OSError(errno.EIO, 'gone')
    told, outcome = outcome_after(file_desk, fails)
    del storage.lastTransaction, storage.tpc_transaction
    assert (type(told), outcome) == (CommitOutcomeUnknown, ('unknown', None))


def shared_desk(*kinds):
    """Over a storage to which others write, too."""
    storage = MappingStorage()
    alsoProvides(storage, *kinds)
    return Desk({'1': storage})


def test_of_a_storage_with_other_writers_nothing_is_proven():
    """C24, C11: its last transaction may be another one's, and what it knows of may be late."""
    desk = shared_desk(IMultiCommitStorage)
    storage = desk.storages['1']

    def fails(transaction):
        raise OSError(errno.ECONNRESET, 'the database has gone')

    def another(transaction):
        storage._ltid = p64(1 << 62)
        fails(transaction)
    for tpc_finish in (fails, another):
        told, outcome = outcome_after(desk, tpc_finish)
        assert (type(told), outcome) == (CommitOutcomeUnknown, ('unknown', None))


@pytest.mark.parametrize('error', [ClientDisconnected('nothing was committed'), ConflictError('too late')])
def test_what_a_storage_is_sure_of_is_told(error, caplog):
    """C24: another server's client of ours has found out that nothing was committed; a conflict says it.
    Neither is a failure of the storage."""
    def fails(transaction):
        raise error
    desk = shared_desk(IMultiCommitStorage)
    told, outcome = outcome_after(desk, fails)
    assert (type(told), outcome) == (type(error), ('not committed', None))
    assert desk.served['1'].status()['failed'] is None
    assert [record for record in caplog.records if 'failed in' in record.getMessage()] == []


def test_a_transient_error_of_another_package_proves_nothing():
    """C24: a client of real ZEO that was disconnected does not know what became of it."""
    class Disconnected(TransientError):
        pass

    def fails(transaction):
        raise Disconnected('connection lost')
    told, outcome = outcome_after(shared_desk(IMultiCommitStorage), fails)
    assert (type(told), outcome) == (CommitOutcomeUnknown, ('unknown', None))


def test_a_transaction_of_somebody_else_is_not_taken_for_ours(file_desk):
    """C24: a storage that knows the tid of what it commits."""
    storage = file_desk.storages['1']

    def another(transaction):
        storage._ltid = p64(1 << 62)
        raise DISK
    told, outcome = outcome_after(file_desk, another)
    assert (type(told), outcome) == (CommitOutcomeUnknown, ('unknown', None))


@pytest.mark.parametrize('before', ['begun', 'doomed'])
def test_what_could_not_be_finished_was_not_committed(before):
    """C24, C18: and the inquiry says so."""
    desk = Desk()
    client = desk.connect()
    client.call('identify', TOKEN, 0)
    client.begin()
    if before == 'doomed':
        client.oneway('storeBlobStart')
        client.oneway('storeBlobEnd', OIDS[0], z64, b'', 7)
    with pytest.raises(POSError):
        client.call('tpc_finish', 7)
    assert client.call('commit_outcome', 7) == ('not committed', None)


class Breaking:
    """In the place of an open file and of ``fsync``: call number ``at`` raises, `late`: after its work."""

    def __init__(self, file, at, late):
        self.file, self.at, self.late = file, at, late
        self.calls = 0

    def count(self, call, *args):
        self.calls += 1
        fails = self.calls == self.at
        if fails and not self.late:
            raise DISK
        result = call(*args)
        if fails:
            raise DISK
        return result

    def __getattr__(self, name):
        value = getattr(self.file, name)
        return partial(self.count, value) if callable(value) else value

    def fsync(self, descriptor):
        self.count(os.fsync, descriptor)


def break_file(storage, monkeypatch, at, late):
    """From now on the file of `storage` is a broken one."""
    storage._file = broken = Breaking(storage._file, at, late)
    monkeypatch.setattr(sys.modules[FileStorage.__module__], 'fsync', broken.fsync)
    return broken


def finish_on_a_broken_file(path, monkeypatch, wrap, at, late):
    """A commit over a file whose call number `at` in ``tpc_finish`` fails: the type of what the client is
    told, and how many calls there were."""
    with contextlib.closing(FileStorage(path)) as storage:
        desk = Desk({'1': wrap(storage)})
        client, other = desk.connect(), desk.connect()
        client.call('identify', TOKEN, 0)
        first = client.commit(OIDS[1])
        other.take_notices()
        vote(client)
        expected, file = storage._tid, storage._file
        broken = break_file(storage, monkeypatch, at, late)
        try:
            told = client.call('tpc_finish', 7)
        except Exception as error:
            told = error
        monkeypatch.undo()
        storage._file = file
        outcome, seen = client.call('commit_outcome', 7), invalidations(other)
        last = other.call('lastTransaction')
        desk.close()
    with contextlib.closing(FileStorage(path, read_only=True)) as storage:
        there = [transaction.tid for transaction in storage.iterator()]
    assert there in ([first], [first, expected])
    if told == expected:
        assert (outcome, seen, last) == (('committed', expected), [(expected, [OIDS[0]])], expected)
        assert there == [first, expected]
    elif type(told) is CommitOutcomeUnknown:
        assert (outcome, seen, last) == (('unknown', None), [], first)
    else:
        assert type(told) is OSError
        assert (outcome, seen, last) == (('not committed', None), [], first)
        assert there == [first]
    return type(told), broken.calls


@pytest.mark.parametrize('wrap', [lambda storage: storage, HexStorage], ids=['plain', 'wrapped'])
@pytest.mark.parametrize('late', [False, True], ids=['before', 'after'])
def test_whichever_call_of_the_file_fails_all_are_told_the_same(tmp_path, monkeypatch, wrap, late):
    """C24: each one in ``tpc_finish``; the client, the others, and whoever opens the file next."""
    at, kinds = 0, set()
    while True:
        at += 1
        kind, calls = finish_on_a_broken_file(str(tmp_path / f'{at}.fs'), monkeypatch, wrap, at, late)
        kinds.add(kind)
        if calls < at:
            break
    assert at > 4
    assert kinds >= {bytes, CommitOutcomeUnknown}


@pytest.mark.parametrize('chosen', [False, True], ids=['of the clock', 'of the killed one'])
def test_the_tid_of_a_commit_that_was_killed_is_no_outcome(tmp_path, chosen):
    """C24, C22: a FileStorage calls it the last one, until it is opened once more.  Neither where the tid
    that a transaction will get is not known, nor where it is that very one, as when a copy goes on."""
    path = tmp_path / 'Data.fs'
    with contextlib.closing(FileStorage(str(path))) as storage:
        client = Desk({'1': storage}).connect()
        first = client.commit(OIDS[1])
        vote(client)
        killed, tid = path.read_bytes(), storage._tid
        client.call('tpc_abort', 7)
    path.write_bytes(killed)
    with contextlib.closing(FileStorage(str(path))) as storage:
        assert storage.lastTransaction() == tid > first
        wrapped, runtime = HexStorage(storage), ClockRuntime()
        runtime.now = TimeStamp(tid).timeTime()
        client = Desk({'1': wrapped}, runtime=runtime).connect()
        client.call('identify', TOKEN, 0)
        if chosen:
            client.oneway('tpc_begin', 7, b'', b'', b'', tid, ' ')
            client.store(OIDS[0])
            client.call('vote', 7)
        else:
            vote(client)

        def fails(transaction):
            raise DISK
        wrapped.tpc_finish = fails
        with pytest.raises(OSError, match='the disk does not answer'):
            client.call('tpc_finish', 7)
        assert client.call('commit_outcome', 7) == ('not committed', None)
        assert client.call('lastTransaction') == first


# ---- the storage's own lock -------------------------------------------------------------------------

def test_a_file_that_could_not_be_cut_off_takes_the_next_commit(file_desk, caplog):
    """L9, C21: it has let go of its lock, and writes over what is there."""
    storage = file_desk.storages['1']
    client, other = file_desk.connect(), file_desk.connect()
    first = client.commit(OIDS[0])
    vote(client, OIDS[1])
    storage.failures = 1
    client.call('tpc_abort', 7)
    assert file_desk.ruok()['1']['failed'] == f'tpc_abort: OSError: {DISK}'
    second = other.commit(OIDS[2])
    assert file_desk.ruok()['1']['failed'] is None
    with contextlib.closing(FileStorage(storage.getName(), read_only=True)) as again:
        assert [transaction.tid for transaction in again.iterator()] == [first, second]


@pytest.mark.parametrize('failures', [1, 5])
def test_a_pack_never_loses_its_lock_to_an_abort(file_desk, failures, caplog):
    """L9: a second tpc_abort would let go of a lock that is the pack's by now, and commits would go into a
    file that is being replaced."""
    served, client = file_desk.served['1'], file_desk.connect()
    packing, storage = served.backend.packing, file_desk.storages['1']
    vote(client)
    packing.start('somebody')
    storage.failures, storage.with_pack = failures, True
    client.call('tpc_abort', 7)
    assert storage._commit_lock.locked() and storage.failures == failures - 1
    with pytest.raises(StorageError, match='is stuck in a transaction'):
        vote(client, transaction_id=8)
    assert storage._commit_lock.locked() and storage.failures == failures - 1
    storage.with_pack = False
    storage._commit_lock.release()
    packing.stop()
    client.call('tpc_abort', 8)
    assert client.commit(OIDS[0])


class Changes(MappingStorage):
    """Of a DemoStorage, which lets go of its own lock only if these do as they are told."""

    def tpc_finish(self, *args):
        raise DISK

    tpc_abort = tpc_finish


@pytest.mark.parametrize('step', ['tpc_finish', 'tpc_abort'])
def test_a_storage_that_keeps_its_lock_for_ever_refuses_commits(step, caplog):
    """L9: tpc_begin would wait, and with it everybody, also of other storages."""
    desk = Desk({'1': DemoStorage(changes=Changes()), 'other': MappingStorage()})
    client, other = desk.connect(), desk.connect('other')
    vote(client)
    with contextlib.suppress(OSError):
        client.call(step, 7)
    for transaction_id in (8, 9):
        with pytest.raises(StorageError, match='is stuck in a transaction'):
            vote(client, transaction_id=transaction_id)
        client.call('tpc_abort', transaction_id)
    assert other.commit(OIDS[0])
    assert client.call('lastTransaction') == z64


def test_an_own_lock_that_cannot_be_looked_at_is_judged_by_the_transaction():
    class Plain:
        def __init__(self):
            self.storage, self.transaction = MappingStorage(), None

        def __getattr__(self, name):
            if name.startswith('_'):
                raise AttributeError(name)
            return getattr(self.storage, name)

        def __len__(self):
            return len(self.storage)

        def tpc_transaction(self):
            return self.transaction

    storage = Plain()
    desk = Desk({'1': storage})
    client = desk.connect()
    vote(client)
    storage.transaction, storage.tpc_abort = object(), Changes().tpc_abort
    client.call('tpc_abort', 7)
    with pytest.raises(StorageError, match='is stuck in a transaction'):
        vote(client, transaction_id=8)
    storage.transaction = None
    del storage.tpc_abort
    storage.tpc_abort(storage.storage.tpc_transaction())
    client.call('tpc_abort', 8)
    tid = client.commit(OIDS[0])
    assert client.call('loadBefore', OIDS[0], maxtid)[1] == tid
