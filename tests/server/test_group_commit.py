"""D1 to D4: a server whose commits share syncs, from the client's point of view."""
from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import ConflictError, POSKeyError, StorageError, StorageTransactionError
from ZODB.serialize import referencesf
from ZODB.utils import maxtid, p64, z64

from tests.server.desk import ClockRuntime, Desk
from tests.server.test_blobs import upload
from zeo_clone import ClientStorage, StorageServer
from zeo_clone.Exceptions import CommitOutcomeUnknown
from zeo_clone.loop.runtime import Runtime
from zeo_clone.server.backend import groupcommit
from zeo_clone.server.backend.groupcommit import GroupCommitStorage

ONE, TWO = p64(1), p64(2)
RECORD, NEW = b'cN\nOld\n.N.', b'cN\nNew\n.N.'


class Gate:
    """A disk whose syncs wait until the test lets them; then they fail with `error`, if there is one."""

    def __init__(self):
        super().__init__()
        self.open_ = threading.Event()
        self.error = None

    def fsync(self, fd):
        self.open_.wait()
        if self.error is not None:
            raise self.error
        os.fsync(fd)


class SlowDisk(Gate, ClockRuntime):
    """With a clock."""


class SlowSite:
    """A desk over a storage on such a disk, with two clients, and an object that is on the disk."""

    def __init__(self, path, blobs=False, **options):
        self.disk = SlowDisk()
        self.disk.open_.set()
        self.storage = GroupCommitStorage(str(path / 'Data.fs'), runtime=self.disk,
                                          blob_dir=str(path / 'blobs') if blobs else None)
        self.desk = Desk({'1': self.storage}, runtime=self.disk, **options)
        self.came = threading.Semaphore(0)
        door = self.desk.loop.door

        def counted(callback):
            door(callback)
            if threading.current_thread() is not threading.main_thread():
                self.came.release()

        self.desk.loop.door = counted
        self.desk.served['1']._syncer._door = counted
        self.writer, self.reader = self.desk.connect(), self.desk.connect()
        self.first = self.finish(self.writer, ONE, RECORD)
        self.sync()
        self.first = self.writer.result(self.first)
        self.reader.take_notices()
        self.disk.open_.clear()

    def finish(self, client, oid, data=NEW, serial=z64, transaction_id=7):
        """Begin a transaction and finish it: the id of the call."""
        client.begin(transaction_id)
        client.store(oid, data, serial, transaction_id)
        client.call('vote', transaction_id)
        return client.start('tpc_finish', transaction_id)

    def sync(self):
        """Let the disk go on until something has come of it."""
        self.disk.open_.set()
        self.came.acquire()
        self.desk.loop.turn()

    def close(self):
        self.disk.open_.set()
        self.desk.served['1'].close(None)
        self.desk.close()
        self.storage.close()


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.setattr(groupcommit, 'QUICK_S', -1.0)  # however quick it is
    site = SlowSite(tmp_path)
    yield site
    site.close()


def invalidations(client):
    return [args[0] for name, args in client.take_notices() if name == 'invalidateTransaction']


def everything_shown(client, new):
    """What a client sees of the objects ONE and `new`, by whatever way; errors by their class."""
    def ask(name, *args):
        try:
            return client.call(name, *args)
        except Exception as error:
            return type(error)

    def transactions():
        number = client.call('iterator_start', None, None)
        found = [each[0] for each in iter(lambda: client.call('iterator_next', number), None)]
        client.oneway('iterator_gc', [number])
        return found

    def objects(oid=None):
        found = []
        while True:
            entry = client.call('record_iternext', oid)
            found.append(tuple(entry[:3]))
            oid = entry[3]
            if oid is None:
                return found

    return {
        'last': client.call('lastTransaction'), 'status': client.call('server_status')['last-transaction'],
        'one': ask('loadBefore', ONE, maxtid), 'new': ask('loadBefore', new, maxtid),
        'batch': [ask('loadBefore', oid, maxtid) for oid in (ONE, new)],
        'tid': ask('getTid', ONE), 'new tid': ask('getTid', new),
        'history': [entry['tid'] for entry in client.call('history', ONE, 9)],
        'undo': [entry['id'] for entry in client.call('undoLog', 0, 99)],
        'missed': client.call('getInvalidations', client.call('lastTransaction')),
        'transactions': transactions(), 'objects': objects()}


def test_nobody_sees_what_is_not_on_the_disk(site):
    """D2: by no way of reading; then everybody does, and is told once."""
    before = everything_shown(site.reader, TWO)
    site.writer.begin()
    site.writer.store(ONE, NEW, site.first)
    site.writer.store(TWO, NEW)
    site.writer.call('vote', 7)
    finishing = site.writer.start('tpc_finish', 7)
    assert not site.writer.has_reply(finishing)
    assert site.writer.member.transactor.phase_name == 'finishing'
    assert everything_shown(site.reader, TWO) == before
    assert everything_shown(site.writer, TWO) == before
    assert invalidations(site.reader) == []
    late = site.desk.connect()
    assert everything_shown(late, TWO) == before
    site.sync()
    tid = site.writer.result(finishing)
    after = everything_shown(site.reader, TWO)
    assert after['last'] == after['tid'] == after['new tid'] == tid
    assert after['one'] == after['new'] == (NEW, tid, None)
    assert all(after[key] != before[key] for key in before if key != 'missed')
    assert invalidations(site.reader) == invalidations(late) == [tid]
    assert invalidations(site.writer) == []
    assert site.writer.member.transactor.phase_name == 'idle'


def test_a_revision_that_is_not_there_yet_cannot_be_asked_for(site):
    """D2: by somebody who guesses its tid."""
    site.finish(site.writer, ONE, serial=site.first)
    tid = site.storage.lastTransaction()
    with pytest.raises(POSKeyError):
        site.reader.call('loadSerial', ONE, tid)
    assert site.reader.call('has_transaction', tid) is not True


def test_the_commit_lock_is_free_meanwhile(site):
    """D1, D2: the next one commits; both share a sync, and are told in the order of their tids."""
    one = site.finish(site.writer, ONE, serial=site.first)
    two = site.finish(site.reader, TWO)
    third = site.desk.connect()
    site.sync()
    while not site.reader.has_reply(two):
        site.sync()
    first, second = site.writer.result(one), site.reader.result(two)
    assert first < second
    assert invalidations(third) == [first, second]
    assert invalidations(site.reader) == [first]
    assert invalidations(site.writer) == [second]


def test_replies_and_invalidations_of_one_sync_come_in_the_order_of_tids(site):
    """C2, D2: on each connection."""
    clients = [site.writer, site.reader, site.desk.connect(), site.desk.connect()]
    listener = site.desk.connect()
    calls = [site.finish(client, p64(10 + number)) for number, client in enumerate(clients)]
    while not clients[-1].has_reply(calls[-1]):
        site.sync()
    tids = [client.result(call) for client, call in zip(clients, calls, strict=True)]
    assert tids == sorted(tids)
    assert invalidations(listener) == tids
    for number, client in enumerate(clients):
        assert invalidations(client) == tids[:number] + tids[number + 1:]


def test_a_later_commit_is_checked_against_an_earlier_one_that_is_not_on_the_disk(site):
    """D2, C12: or one of the two would be lost.

    It is told when it can see what it is in conflict with: or each try would end like this one.
    """
    finishing = site.finish(site.writer, ONE, serial=site.first)
    site.reader.begin()
    site.reader.store(ONE, NEW, site.first)
    voting = site.reader.start('vote', 7)
    assert not site.reader.has_reply(voting)
    other = site.finish(site.desk.connect(), TWO)  # has the lock meanwhile
    site.sync()
    tid = site.writer.result(finishing)
    with pytest.raises(ConflictError):
        site.reader.result(voting)
    assert invalidations(site.reader)[0] == tid
    assert site.reader.call('loadBefore', ONE, maxtid) == (NEW, tid, None)
    assert other is not None


def test_a_client_that_resolves_conflicts_is_told_of_them_when_it_can_load_them(tmp_path, monkeypatch):
    """D2, C12: until then it keeps the lock."""
    monkeypatch.setattr(groupcommit, 'QUICK_S', -1.0)
    site = SlowSite(tmp_path, client_conflict_resolution=True)
    try:
        finishing = site.finish(site.writer, ONE, serial=site.first)
        site.reader.begin()
        site.reader.store(ONE, NEW, site.first)
        voting = site.reader.start('vote', 7)
        assert not site.reader.has_reply(voting)
        site.sync()
        tid = site.writer.result(finishing)
        (conflict,) = site.reader.result(voting)
        assert conflict['serials'] == (tid, site.first)
        assert site.reader.call('loadSerial', ONE, tid) == NEW
    finally:
        site.close()


def test_an_error_of_the_disk(site):
    """D3, C24: nobody knows the outcome, nobody sees it, nobody commits; readers go on."""
    one = site.finish(site.writer, ONE, serial=site.first)
    two = site.finish(site.reader, TWO)
    before = everything_shown(site.desk.connect(), TWO)
    site.disk.error = OSError(5, 'Input/output error')
    while not site.reader.has_reply(two):
        site.sync()
    for client, call in ((site.writer, one), (site.reader, two)):
        with pytest.raises(CommitOutcomeUnknown, match='could not be synced.*Input/output error'):
            client.result(call)
    site.disk.error = None
    site.writer.begin(8)
    site.writer.store(p64(3), NEW, z64, 8)
    with pytest.raises(StorageError, match='takes no more transactions.*restart the server'):
        site.writer.call('vote', 8)
    site.writer.call('tpc_abort', 8)
    assert everything_shown(site.reader, TWO) == before
    assert invalidations(site.reader) == []
    assert 'Input/output error' in site.desk.ruok()['1']['failed']


def test_an_abort_that_finds_no_room_leaves_the_storage_to_others(site, monkeypatch):
    """L9: ZODB's has let go of its lock all the same, and is not asked to do that twice."""
    site.disk.open_.set()
    clear = site.storage._clear_temp

    def full():
        monkeypatch.setattr(site.storage, '_clear_temp', clear)
        raise OSError(28, 'No space left on device')

    site.writer.begin(8)
    site.writer.store(ONE, NEW, site.first, 8)
    site.writer.call('vote', 8)
    monkeypatch.setattr(site.storage, '_clear_temp', full)
    site.writer.call('tpc_abort', 8)
    assert 'No space left' in site.desk.ruok()['1']['failed']
    call = site.finish(site.reader, TWO)
    site.sync()
    assert site.reader.result(call)


def test_a_file_that_cannot_be_synced_is_not_opened_and_left_alone(tmp_path):
    """D3: the error, no storage, and nothing that keeps the next try from opening it."""
    disk, path = SlowDisk(), str(tmp_path / 'Data.fs')
    disk.open_.set()
    GroupCommitStorage(path, runtime=disk).close()
    disk.error = OSError(5, 'the disk is broken')
    with pytest.raises(OSError, match='the disk is broken'):
        GroupCommitStorage(path, runtime=disk)
    disk.error = None
    GroupCommitStorage(path, runtime=disk).close()


def test_who_has_voted_before_the_error_learns_it_too(site):
    """D3: it is not called durable, whatever later syncs say."""
    other = site.desk.connect()
    one = site.finish(site.writer, ONE, serial=site.first)
    other.begin()
    other.store(TWO)
    other.call('vote', 7)
    site.disk.error = OSError(28, 'No space left on device')
    site.sync()
    assert site.writer.has_reply(one)
    site.disk.error = None
    finishing = other.start('tpc_finish', 7)
    while not other.has_reply(finishing):
        site.sync()
    with pytest.raises(CommitOutcomeUnknown):
        other.result(finishing)
    with pytest.raises(POSKeyError):
        site.reader.call('loadBefore', TWO, maxtid)


def test_a_committer_that_goes_is_told_of_no_more_and_its_commit_stays(site):
    """C11, C16: it asks for the outcome with a new connection, and is answered when that is known."""
    token = b't' * 16
    site.writer.call('identify', token, 0)
    site.finish(site.writer, ONE, serial=site.first, transaction_id=1)
    site.writer.hang_up()
    again = site.desk.connect()
    again.call('identify', token, 1)
    asking = again.start('commit_outcome', 1)
    assert not again.has_reply(asking)
    site.sync()
    outcome, tid = again.result(asking)
    assert outcome == 'committed'
    assert site.reader.call('loadBefore', ONE, maxtid) == (NEW, tid, None)
    assert invalidations(site.reader) == [tid]


def test_a_finished_transaction_is_neither_finished_again_nor_aborted(site):
    """C11: whatever its client says."""
    token = b't' * 16
    site.writer.call('identify', token, 0)
    finishing = site.finish(site.writer, ONE, serial=site.first, transaction_id=1)
    with pytest.raises(StorageTransactionError):
        site.writer.call('tpc_finish', 1)
    with pytest.raises(StorageTransactionError):
        site.writer.call('vote', 1)
    aborts = site.desk.ruok()['1']['aborts']
    site.writer.call('tpc_abort', 1)
    site.sync()
    tid = site.writer.result(finishing)
    assert site.writer.call('commit_outcome', 1) == ('committed', tid)
    assert site.desk.ruok()['1']['aborts'] == aborts
    site.writer.begin(2)
    site.writer.call('tpc_abort', 2)


def test_an_early_tid_is_later_than_what_is_not_on_the_disk(site):
    """C25: ZEO 4's clients learn their tid when they vote."""
    site.finish(site.writer, ONE, serial=site.first)
    old = site.desk.connect(protocol='Z4')
    old.begin()
    old.store(TWO)
    old.call('vote', 7)
    finishing = old.start('tpc_finish', 7)
    while not old.has_reply(finishing):
        site.sync()
    assert old.result(finishing) > site.storage.durable or old.result(finishing) == site.storage.durable
    assert site.reader.call('lastTransaction') == old.result(finishing)


# ---- real parts -----------------------------------------------------------------------------------

class RealDisk(Gate, Runtime):
    """The real world but for the gate."""

    def __init__(self):
        super().__init__()
        self.waiting = threading.Event()

    def fsync(self, fd):
        self.waiting.set()
        super().fsync(fd)


def commit(storage, oid, serial=z64):
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.store(oid, serial, NEW, '', meta)
    storage.tpc_vote(meta)
    return storage.tpc_finish(meta)


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A real server on such a disk: disk, storage, server."""
    monkeypatch.setattr(groupcommit, 'QUICK_S', -1.0)
    disk = RealDisk()
    disk.open_.set()
    storage = GroupCommitStorage(str(tmp_path / 'Data.fs'), runtime=disk)
    server = StorageServer.StorageServer(('127.0.0.1', 0), {'1': storage}, runtime=disk)
    server.start_thread()
    with contextlib.closing(server):
        yield disk, storage, server
        disk.open_.set()


def test_others_load_while_the_disk_takes_its_time(served):
    """D1: and commit, up to their own sync."""
    disk, storage, server = served
    with contextlib.closing(ClientStorage.ClientStorage(server.addr)) as writer, \
            contextlib.closing(ClientStorage.ClientStorage(server.addr, cache_size=0)) as reader:
        first = commit(writer, ONE)
        disk.open_.clear()
        disk.waiting.clear()
        tids = []
        thread = threading.Thread(target=lambda: tids.append(commit(writer, ONE, first)))
        thread.start()
        disk.waiting.wait()
        assert reader.loadBefore(ONE, maxtid) == (NEW, first, None)
        assert tids == []
        disk.open_.set()
        thread.join()
        reader.sync()
        reader.ping()
        assert reader.loadBefore(ONE, maxtid) == (NEW, tids[0], None)


def test_a_server_that_stops_lets_commits_get_to_the_disk_and_answers_them(served):
    """D4: within `LAST_SYNC_S`."""
    disk, storage, server = served
    with contextlib.closing(ClientStorage.ClientStorage(server.addr)) as writer:
        disk.open_.clear()
        disk.waiting.clear()
        tids = []
        committing = threading.Thread(target=lambda: tids.append(commit(writer, ONE)))
        committing.start()
        disk.waiting.wait()
        stopping = threading.Thread(target=server.close)
        stopping.start()
        disk.open_.set()
        committing.join()
        stopping.join()
    assert tids == [storage.durable]


def test_commits_wait_for_the_end_of_a_pack_and_loads_do_not(served):
    """D1, L12: however long the disk takes for the new file; the commit begins when the pack has ended."""
    disk, storage, server = served
    with contextlib.closing(ClientStorage.ClientStorage(server.addr)) as writer, \
            contextlib.closing(ClientStorage.ClientStorage(server.addr, cache_size=0)) as reader:
        last = first = commit(writer, ONE)
        for _ in range(2):
            last = commit(writer, ONE, last)
        size = storage.getSize()
        disk.open_.clear()
        disk.waiting.clear()
        packing = threading.Thread(target=storage.pack, args=(time.time() + 60, referencesf, False))
        packing.start()
        disk.waiting.wait()
        tids = []
        committing = threading.Thread(target=lambda: tids.append(commit(writer, TWO)))
        committing.start()
        while not server.served['1'].lock.waiting:
            assert reader.loadBefore(ONE, maxtid) == (NEW, last, None)
        assert tids == [] and server.served['1'].lock.holder is None
        disk.open_.set()
        committing.join()
        packing.join()
        assert storage.getSize() < size, 'two revisions are gone'
        with pytest.raises(POSKeyError):
            storage.loadSerial(ONE, first)
        assert reader.loadBefore(TWO, maxtid) in [None, (NEW, tids[0], None)]
        assert not server.served['1'].lock.waiting


def test_a_pack_waits_for_the_commit_that_is_under_way(served):
    """L2, L12: and the next one for the pack."""
    disk, storage, server = served
    with contextlib.closing(ClientStorage.ClientStorage(server.addr)) as writer:
        first = commit(writer, ONE)
        commit(writer, ONE, first)
        meta = TransactionMetaData()
        writer.tpc_begin(meta)
        writer.store(TWO, z64, NEW, '', meta)
        writer.tpc_vote(meta)
        asked = threading.Event()
        take_turn = server.served['1'].lock.take_turn

        def asking():
            asked.set()
            take_turn()

        server.served['1'].lock.take_turn = asking
        packing = threading.Thread(target=storage.pack, args=(time.time() + 60, referencesf, False))
        packing.start()
        asked.wait()
        tid = writer.tpc_finish(meta)
        packing.join()
        assert writer.loadBefore(TWO, maxtid) == (NEW, tid, None)
        assert commit(writer, TWO, tid) > tid


def test_a_pack_that_waits_for_its_turn_goes_on_when_the_server_ends(served):
    """L12, C16: nobody is left to give it."""
    disk, storage, server = served
    lock = server.served['1'].lock
    lock._loop = StoppedLoop()
    waiting = threading.Thread(target=lock.take_turn)
    waiting.start()
    lock._loop.asked.wait()
    lock.close()
    waiting.join()
    lock.take_turn()  # nor does one wait that comes later


class StoppedLoop:
    """A loop that calls nothing any more."""

    runtime = Runtime()

    def __init__(self):
        self.asked = threading.Event()

    def door(self, callback):
        self.asked.set()

    def in_loop_thread(self):
        return False


@pytest.mark.parametrize('lost', [False, True])
def test_a_blob_is_noted_until_its_transaction_is_on_the_disk(tmp_path, monkeypatch, lost):
    """B12, D4: if a loss of power takes the transaction, its file is cleared at the next start."""
    monkeypatch.setattr(groupcommit, 'QUICK_S', -1.0)
    (tmp_path / 'before').mkdir()
    site = SlowSite(tmp_path / 'before', blobs=True)
    size = site.storage.getSize()
    site.disk.open_.set()
    site.writer.begin()
    upload(site.writer, b'blob', oid=TWO)
    site.writer.call('vote', 7)
    site.disk.open_.clear()
    site.writer.start('tpc_finish', 7)
    # The same files, as a note knows them by their numbers; but for the one that is written to.
    shutil.copytree(tmp_path / 'before', tmp_path / 'after', symlinks=True, copy_function=os.link)
    (tmp_path / 'after' / 'Data.fs').unlink()
    data = (tmp_path / 'before' / 'Data.fs').read_bytes()
    (tmp_path / 'after' / 'Data.fs').write_bytes(data[:size] if lost else data)
    (tmp_path / 'after' / 'Data.fs.lock').unlink()
    site.sync()
    assert os.listdir(tmp_path / 'before' / 'blobs' / 'tmp') == []
    site.close()
    blobs = tmp_path / 'after' / 'blobs'
    storage = GroupCommitStorage(str(tmp_path / 'after' / 'Data.fs'), blob_dir=str(blobs))
    desk = Desk({'1': storage})
    assert len(list(blobs.glob('0x00/**/*.blob'))) == (0 if lost else 1)
    assert os.listdir(blobs / 'tmp') == []
    desk.close()
    storage.close()


def test_a_server_that_ends_after_an_error_of_the_disk_keeps_no_directory_open(tmp_path, monkeypatch):
    """N12, B12: the notes of what is in doubt stay, for the next start."""
    monkeypatch.setattr(groupcommit, 'QUICK_S', -1.0)
    site = SlowSite(tmp_path, blobs=True)
    site.disk.open_.set()
    site.writer.begin()
    upload(site.writer, b'blob', oid=TWO)
    site.writer.call('vote', 7)
    site.disk.error = OSError(5, 'Input/output error')
    call = site.writer.start('tpc_finish', 7)
    while not site.writer.has_reply(call):
        site.sync()
    site.close()
    uploads = tmp_path / 'blobs' / 'tmp'
    assert [name.rpartition('.')[2] for name in os.listdir(uploads)] == ['note']
    assert str(uploads) not in [os.path.realpath(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd')]
