"""B11, D4: after a loss of power at whatever step of a commit, a transaction that is there has its blobs, and
one that was answered is there."""
from __future__ import annotations

import errno
import os
import threading

import pytest
from ZODB.blob import is_blob_record
from ZODB.FileStorage import FileStorage
from ZODB.POSException import ConflictError
from ZODB.tests.hexstorage import HexStorage
from ZODB.utils import p64, z64

from tests.server.desk import ClockRuntime, Desk
from tests.server.test_blobs import commit_blob, share, upload
from tests.support.power import Platter, read
from zeo_clone.server.backend import groupcommit
from zeo_clone.server.backend.groupcommit import GroupCommitStorage
from zeo_clone.server.deferred import Deferred

OID, OTHER = p64(1), p64(0x1234)


class Disk(Platter, ClockRuntime):
    """With a clock."""


class Site:
    """A server over a FileStorage with blobs on a `Platter`; and what has been promised to its client."""

    def __init__(self, tmp_path, monkeypatch, kind=FileStorage):
        (tmp_path / 'disk').mkdir()
        self.storage = open_storage(tmp_path / 'disk', kind=kind)
        self.disk = Disk(tmp_path / 'disk')
        self.storage._runtime = self.disk
        self.disk.watch(monkeypatch)
        self.desk = Desk({'1': self.storage}, runtime=self.disk)
        self.client = self.desk.connect()
        self.sent = {}  # by oid: all contents

    def send(self, oid, content, serial=z64):
        self.sent.setdefault(oid, []).append(content)
        upload(self.client, content[:1000], content[1000:], oid=oid, serial=serial)

    def finish(self, *oids):
        self.client.call('vote', 7)
        self.disk.step('the vote is answered')
        tid = self.client.call('tpc_finish', 7)
        self.disk.told += [(oid, tid) for oid in oids]
        self.disk.step('tpc_finish is answered')
        return tid

    def commit(self, oid, content, serial=z64):
        self.client.begin()
        self.send(oid, content, serial)
        return self.finish(oid)


@pytest.fixture(params=[FileStorage, GroupCommitStorage])
def site(tmp_path, monkeypatch, request):
    site = Site(tmp_path, monkeypatch, request.param)
    yield site
    site.desk.served['1'].close(None)  # the thread that syncs
    monkeypatch.undo()
    site.storage.close()
    (tmp_path / 'images').mkdir()
    wrong = [f'{snapshot.step}: {problem}' for image, snapshot in site.disk.images(str(tmp_path / 'images'))
             for problem in problems(image, snapshot, site.sent)]
    site.disk.release()
    assert not wrong


def open_storage(directory, kind=FileStorage, **keywords):
    return kind(os.path.join(directory, 'Data.fs'), blob_dir=os.path.join(directory, 'blobs'), **keywords)


def problems(image, snapshot, sent):
    """What is wrong with what is left: a blob that is not one of those `sent`, or something promised."""
    storage = open_storage(image, read_only=True)
    try:
        found = set()
        for transaction in storage.iterator():
            for record in transaction:
                if is_blob_record(record.data):
                    found.add((record.oid, record.tid))
                    path = storage.fshelper.getBlobFilename(record.oid, record.tid)
                    if not os.path.exists(path):
                        yield f'no file of {record.oid.hex()}'
                    elif read(path) not in sent[record.oid]:
                        yield f'of {record.oid.hex()} there are {os.path.getsize(path)} bytes'
        if not found >= set(snapshot.told):
            yield f'a transaction is not there: {found} of {snapshot.told}'
    finally:
        storage.close()


def test_new_blobs(site):
    """B11: two in one transaction, each with directories of its own."""
    site.client.begin()
    site.send(OID, b'one' * 1000)
    site.send(OTHER, b'other' * 1000)
    site.finish(OID, OTHER)
    assert len(site.disk.snapshots) > 40


def test_a_new_revision(site):
    """B11."""
    first = site.commit(OID, b'first' * 1000)
    site.commit(OID, b'second' * 1000, first)


def test_an_undo(site):
    """B11: the storage copies the file."""
    first = site.commit(OID, b'first' * 1000)
    site.commit(OID, b'second' * 1000, first)
    site.client.begin()
    site.client.oneway('undoa', site.client.call('undoLog', 0, -1)[0]['id'], 7)
    site.finish(OID)


def test_a_shared_blob(site):
    """B11: of a client that has not synced it; its directories are new."""
    site.client.begin()
    site.sent[OID] = [b'shared' * 1000]
    share(site.client, site.storage, b'shared' * 1000)
    site.finish(OID)


def test_a_conflict_and_the_next_attempt(site):
    """B11, B3."""
    first = site.commit(OID, b'first' * 1000)
    second = site.commit(OID, b'second' * 1000, first)
    site.client.begin()
    site.send(OID, b'late' * 1000, first)
    with pytest.raises(ConflictError):
        site.client.call('vote', 7)
    site.client.call('tpc_abort', 7)
    site.commit(OID, b'third' * 1000, second)


def test_an_abort_and_the_next_attempt(site):
    """B11: the directories are there, and not on the disk."""
    site.client.begin()
    site.send(OID, b'first' * 1000)
    site.client.call('vote', 7)
    site.client.call('tpc_abort', 7)
    site.commit(OID, b'second' * 1000)


def test_commits_that_share_a_sync(site, monkeypatch):
    """D4: those that were answered are there; their blobs too, and those of others that are there."""
    if type(site.storage) is not GroupCommitStorage:
        return
    monkeypatch.setattr(groupcommit, 'QUICK_S', -1.0)
    came, turn = threading.Semaphore(0), threading.Semaphore(0)
    sync_file = site.storage._sync_file
    monkeypatch.setattr(site.storage, '_sync_file', lambda *args: (turn.acquire(), sync_file(*args)))
    door = site.desk.loop.door
    site.desk.served['1']._syncer._door = lambda callback: (door(callback), came.release())
    clients = [site.client, *(site.desk.connect() for _ in range(3))]
    calls = []
    for number, client in enumerate(clients):
        site.client, oid = client, p64(10 + number)
        client.begin()
        site.send(oid, b'%d' % number * 1000)
        client.call('vote', 7)
        calls.append((client, oid, client.start('tpc_finish', 7)))
        site.disk.step('finished')
    while calls:
        turn.release()  # one thread at a time: the disk is looked at after each step
        came.acquire()
        site.desk.loop.turn()
        for entry in [entry for entry in calls if entry[0].has_reply(entry[2])]:
            client, oid, call = entry
            site.disk.told.append((oid, client.result(call)))
            calls.remove(entry)
        site.disk.step('some are answered')


def test_a_directory_that_was_just_made(tmp_path, monkeypatch):
    """B11: without the name of its layout the storage would look for blobs elsewhere."""
    (tmp_path / 'disk').mkdir()
    disk = Disk(tmp_path / 'disk')
    storage = FileStorage(str(tmp_path / 'disk' / 'Data.fs'),
                          blob_dir=str(tmp_path / 'disk' / 'new' / 'blobs'))
    Desk({'1': storage}, runtime=disk)
    storage.close()
    (tmp_path / 'images').mkdir()
    for image, _ in list(disk.images(str(tmp_path / 'images')))[-6:]:
        assert read(os.path.join(image, 'new', 'blobs', '.layout')) == b'bushy'
    disk.release()


def test_the_model_finds_what_is_not_synced(tmp_path, monkeypatch):
    """Otherwise the tests above would prove nothing."""
    site = Site(tmp_path, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(site.disk, 'sync_file', lambda path: None)
        patch.setattr(site.disk, 'sync_directory', lambda path: None)
        site.commit(OID, b'one' * 1000)
    monkeypatch.undo()
    site.storage.close()
    (tmp_path / 'images').mkdir()
    found = [problem for image, snapshot in site.disk.images(str(tmp_path / 'images'))
             for problem in problems(image, snapshot, site.sent)]
    site.disk.release()
    assert any('no file' in problem for problem in found)
    assert any('there are 0 bytes' in problem for problem in found)


# ---- as few syncs as possible ---------------------------------------------------------------------

class CountingDisk(ClockRuntime):
    """Remembers what was synced."""

    def __init__(self):
        super().__init__()
        self.synced = []

    def fsync(self, fd):
        self.synced.append(os.readlink(f'/proc/self/fd/{fd}'))

    def take(self):
        synced, self.synced = self.synced, []
        return [os.path.basename(path) for path in synced if not path.endswith('.upload')]


def test_directories_are_synced_as_far_as_they_are_new(storage):
    """B11: the file once, when it is whole; then the directory that it is in, and those that were made."""
    disk = CountingDisk()
    client = Desk({'1': storage}, runtime=disk).connect()
    disk.take()
    first = commit_blob(client, b'blob')
    assert disk.take() == ['0x01', *['0x00'] * 7, 'blobs']
    commit_blob(client, b'blob', serial=first)
    assert disk.take() == ['0x01']
    commit_blob(client, b'blob', oid=p64(2))
    assert disk.take() == ['0x02', '0x00']
    commit_blob(client, b'blob', oid=p64(0x301))
    assert disk.take() == ['0x01', '0x03', '0x00']


def test_a_directory_of_an_aborted_transaction_is_synced_by_the_next(storage):
    """B11: it is there, but perhaps not on the disk."""
    disk = CountingDisk()
    desk = Desk({'1': storage}, runtime=disk)
    desk.syncers, inline = LaterWorkers(), desk.syncers
    client = desk.connect()
    client.begin()
    upload(client, b'blob')
    client.start('vote', 7)
    desk.syncers.do_one()
    client.call('tpc_abort', 7)
    desk.syncers.do_one()
    desk.syncers = inline
    disk.take()
    commit_blob(client, b'blob')
    assert len(disk.take()) == 9


@pytest.mark.parametrize('way', ['pack', 'share'])
def test_a_directory_that_may_have_been_made_anew_is_synced(storage, way):
    """B11: after a pack, and if clients make directories."""
    disk = CountingDisk()
    client = Desk({'1': storage}, runtime=disk).connect()
    first = commit_blob(client, b'blob')
    disk.take()
    if way == 'pack':
        client.call('pack', 0.0, True)
        commit_blob(client, b'blob', serial=first)
    else:
        client.begin()
        path = share(client, storage, b'shared', serial=first)
        client.call('vote', 7)
        client.call('tpc_finish', 7)
        assert disk.synced.pop(0) == path
    assert len(disk.take()) == 9


# ---- while the disk is busy -----------------------------------------------------------------------

class LaterWorkers:
    """Worker threads that are busy until the test lets them."""

    def __init__(self):
        self.jobs = []

    def run(self, lane, function):
        self.jobs.append((function, Deferred()))
        return self.jobs[-1][1]

    def do_one(self):
        function, deferred = self.jobs.pop(0)
        try:
            value = function()
        except Exception as error:
            deferred.fail(error)
        else:
            deferred.succeed(value)


class FailingDisk(ClockRuntime):
    """The sync number `failing` fails, and those after it."""

    failing = 10_000

    def fsync(self, fd):
        self.failing -= 1
        if self.failing < 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.fixture
def desk(storage):
    desk = Desk({'1': storage}, runtime=FailingDisk())
    desk.syncers = LaterWorkers()
    yield desk
    desk.close()


@pytest.fixture
def storage(tmp_path):
    storage = open_storage(tmp_path)
    yield storage
    storage.close()


def files_below(directory):
    return sorted(name for _, _, names in os.walk(directory) for name in names)


def test_the_vote_waits_for_the_disk_and_others_do_not(desk):
    """B11, B9: they load, and commit; the commit lock is not held."""
    slow, other = desk.connect(), desk.connect()
    slow.begin()
    upload(slow, b'blob')
    vote = slow.start('vote', 7)
    assert slow.member.transactor.phase_name == 'syncing'
    tid = other.commit(OTHER)
    assert other.call('loadBefore', OTHER, b'\xff' * 8)[1] == tid
    assert slow.call('loadBefore', OTHER, b'\xff' * 8)[1] == tid
    desk.syncers.do_one()
    assert not slow.has_reply(vote), 'its directories are not on the disk'
    assert slow.member.transactor.phase_name == 'replaying'
    assert slow.call('loadBefore', OTHER, b'\xff' * 8)[1] == tid
    desk.syncers.do_one()
    assert slow.result(vote) == []
    assert slow.call('tpc_finish', 7) > tid
    assert desk.syncers.jobs == []


def test_blobs_that_come_while_others_are_synced_are_synced_after_them(desk):
    """B11: one job at a time for each transaction."""
    client = desk.connect()
    client.begin()
    for number in range(5):
        upload(client, b'blob', oid=p64(number))
    vote = client.start('vote', 7)
    for _ in range(3):
        assert len(desk.syncers.jobs) == 1
        assert not client.has_reply(vote)
        desk.syncers.do_one()
    assert client.result(vote) == []


@pytest.mark.parametrize('failing', range(13))
def test_a_sync_that_fails_fails_the_vote(desk, storage, tmp_path, failing):
    """B11: whichever it is, nothing is committed, and nothing left; others can commit."""
    client = desk.connect()
    desk.runtime.failing = failing
    client.begin()
    upload(client, b'one')
    upload(client, b'two', oid=OTHER)
    vote = client.start('vote', 7)
    while desk.syncers.jobs:
        desk.syncers.do_one()
    with pytest.raises(OSError, match='Input/output error') as caught:
        client.result(vote)
    assert caught.value.errno == errno.EIO
    client.call('tpc_abort', 7)
    assert files_below(tmp_path / 'blobs') == ['.layout']
    desk.connect().commit(p64(7))
    assert len(storage) == 1


@pytest.mark.parametrize('jobs', [0, 1])
@pytest.mark.parametrize('end', [
    lambda client: client.hang_up(), lambda client: client.call('tpc_abort', 7)])
def test_a_transaction_may_end_while_its_blobs_are_synced(desk, storage, tmp_path, jobs, end):
    """B2, C16: before the commit lock is held, or while it is."""
    client, other = desk.connect(), desk.connect()
    client.begin()
    upload(client, b'blob')
    client.start('vote', 7)
    for _ in range(jobs):
        desk.syncers.do_one()
    end(client)
    assert files_below(tmp_path / 'blobs') == ['.layout']
    desk.syncers.do_one()
    other.commit(OTHER)
    assert desk.served['1'].status()['lock_time'] is None
    assert files_below(tmp_path / 'blobs') == ['.layout']


def test_a_storage_that_names_files_at_the_end_is_synced_then(tmp_path):
    """B11: one that tells no tid before."""
    class Late(HexStorage):
        """Its files get their names in tpc_finish."""

        def storeBlob(self, oid, serial, data, path, version, transaction):
            self.kept = oid, f'{path}.kept'
            os.rename(path, self.kept[1])
            self.store(oid, serial, data, version, transaction)

        def tpc_finish(self, transaction):
            tid = self.base.tpc_finish(transaction)
            helper = self.base.fshelper
            helper.getPathForOID(self.kept[0], create=True)
            os.rename(self.kept[1], helper.getBlobFilename(self.kept[0], tid))
            return tid

        def __init__(self, base):
            super().__init__(base)
            del self.__dict__['tpc_finish']

    class Recording(ClockRuntime):
        def fsync(self, fd):
            synced.append(os.readlink(f'/proc/self/fd/{fd}'))

    synced = []
    storage = Late(open_storage(tmp_path))
    client = Desk({'1': storage}, runtime=Recording()).connect()
    client.begin()
    upload(client, b'blob')
    client.call('vote', 7)
    del synced[:]
    tid = client.call('tpc_finish', 7)
    path = storage.fshelper.getBlobFilename(OID, tid)
    chain = [os.path.dirname(path)]
    while chain[-1] != str(tmp_path / 'blobs'):
        chain.append(os.path.dirname(chain[-1]))
    assert synced == chain, 'its contents were on the disk before'
    storage.close()


# ---- what a killed server has left ------------------------------------------------------------------

def test_only_files_that_were_left_are_cleared(tmp_path):
    """B12, B5: a note leads nowhere else, and a revision that was committed stays."""
    storage = open_storage(tmp_path)
    tid = commit_blob(Desk({'1': storage}).connect(), b'blob')
    path = storage.loadBlob(OID, tid)
    (tmp_path / 'secret.tmp').write_text('secret')
    (tmp_path / '0x0123456789.tmp').write_text('secret')
    for number, (inode, place) in enumerate([
            (os.lstat(path).st_ino, os.path.dirname(path)), (os.lstat(path).st_ino, path),
            (os.lstat(tmp_path / '0x0123456789.tmp').st_ino, '../0x0123456789.tmp'), ('x', '../..'),
            (os.lstat(tmp_path / 'Data.fs').st_ino, '..')]):
        os.symlink(f'{inode}:{os.path.relpath(place, tmp_path / "blobs") if place[0] == "/" else place}',
                   tmp_path / 'blobs' / 'tmp' / f'zeo-{number:024x}.note')
    (tmp_path / 'blobs' / 'tmp' / 'zeo-0123456789abcdef01234567.note').write_text('no link')
    before = files_below(tmp_path)
    Desk({'1': storage})
    left = [name for name in files_below(tmp_path) if not name.endswith('.note')]
    assert left == [name for name in before if not name.endswith('.note')]
    assert len(os.listdir(tmp_path / 'blobs' / 'tmp')) == 1, 'the one that is none'
    storage.close()
