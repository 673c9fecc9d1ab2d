"""C21: whatever fails while a session works or ends, the others go on.

A storage, its iterators and all files but those of the storage itself raise at their N-th use, for every N,
in scenarios that end a session at each moment of a transaction, and in the midst of what takes long.
"""
from __future__ import annotations

import base64
import contextlib
import errno
import gc
import itertools
import logging
import os
import socket
import sys
import warnings
from functools import partial
from pathlib import Path

import pytest
import ZODB.event
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.utils import p64, z64

from tests.server.desk import ClockRuntime, Desk, HandLoop
from tests.support import inside
from tests.support.brittle import Script, brittle, brittle_files
from zeo_clone.Exceptions import CommitOutcomeUnknown
from zeo_clone.server.audience import audience
from zeo_clone.server.clients import downloads
from zeo_clone.server.clients.heartbeat import Heartbeat
from zeo_clone.server.commits import operations
from zeo_clone.server.commits.lock import Watchdog
from zeo_clone.server.server import StorageServer
from zeo_clone.steps import take_steps
from zeo_clone.zrpc.connection import ServerCore

OIDS = [p64(number) for number in range(1, 5)]
BLOB = b'cZODB.blob\nBlob\n.N.'
ERRORS = [OSError(errno.EIO, 'the disk does not answer'), RuntimeError('a bug in the storage')]
#: What the client that goes away has done by then.
MOMENTS = ['connected', 'informed', 'iterating', 'iterated', 'reading a log', 'downloading', 'packing',
           'begun', 'uploading', 'waiting', 'voted', 'resolving', 'undoing', 'finished', 'old and finished',
           'aborted', 'timed out']
#: Before there is a transaction of its own.
LOOKING = MOMENTS[:MOMENTS.index('begun')]
#: More uses than any scenario has.
MANY = 400


class World:
    """A desk over a storage with blobs that can be made to fail."""

    def __init__(self, directory, script, moment):
        self.script = script
        self.storage = brittle(FileStorage, script)(
            str(directory / 'Data.fs'), blob_dir=str(directory / 'blobs'))
        self.desk = Desk({'1': self.storage}, runtime=brittle_files(ClockRuntime(), script),
                         client_conflict_resolution=moment == 'resolving')
        self.temporary = self.storage.fshelper.temp_dir
        self.answers = []  # to tpc_finish: what must then be the last transaction, and what is
        self._oids = map(p64, itertools.count(100))
        self.blob, self.plain = self.new_oid(), self.new_oid()
        client = self.desk.connect()
        client.begin()
        upload(client, self.blob)
        client.store(self.plain)
        client.call('vote', 7)
        self.tid = client.call('tpc_finish', 7)
        client.hang_up()

    def new_oid(self):
        return next(self._oids)

    def close(self):
        self.desk.close()
        self.storage.close()


@pytest.fixture
def script(monkeypatch):
    """What the storages and the files count on.  All that is large is small."""
    monkeypatch.setattr(operations, 'SPOOL_SIZE', 300)
    monkeypatch.setattr(downloads, 'PIECE', 100)
    monkeypatch.setattr(downloads, 'BLOB_CHUNK', 50)
    script = Script()
    for name in ('remove', 'rename'):  # ZODB's own use of files of blobs
        monkeypatch.setattr(os, name, partial(script.use, name, getattr(os, name)))
    monkeypatch.setattr(sys.modules[FileStorage.__module__], 'fsync', lambda fd: None)
    return script


@pytest.fixture
def make_world(tmp_path, script):
    """Make a new World."""
    worlds = []

    def make(moment):
        directory = tmp_path / str(len(worlds))
        directory.mkdir()
        worlds.append(World(directory, script, moment))
        return worlds[-1]

    yield make
    script.disarm()
    for world in worlds:
        world.close()
    worlds.clear()
    # Files that a planted failure left open are closed here, not while another test is running.
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', ResourceWarning)
        for error in ERRORS:  # each is raised again and again, and keeps the frames that it came through
            error.__traceback__ = error.__context__ = None
        gc.collect()


def invalidations(client):
    return [args for name, args in client.take_notices() if name == 'invalidateTransaction']


def upload(client, oid, transaction_id=7):
    client.oneway('storeBlobStart')
    client.oneway('storeBlobChunk', b'x' * 1000)
    client.oneway('storeBlobEnd', oid, z64, BLOB, transaction_id)


def play(world, moment, arm):
    """One client does something and goes away at `moment`; errors that it is told are its own business."""
    desk = world.desk
    other, one = desk.connect(), desk.stranger()
    one.greet('Z4' if moment.startswith('old') else 'Z5')
    arm()
    with contextlib.suppress(Exception):
        one.call('register', '1', False)
        if moment in LOOKING:
            look(world, one, moment)
        else:
            change(world, one, other, moment)
    one.hang_up()
    with contextlib.suppress(Exception):
        other.call('tpc_finish', 7)
    other.hang_up()


def look(world, one, moment):
    if moment == 'informed':
        one.call('get_info')
        one.call('server_status')
        one.call('getInvalidations', world.tid)
    elif moment in ('iterating', 'iterated'):
        first, second, third = (one.call('iterator_start', world.tid, world.tid) for _ in range(3))
        one.call('iterator_next', first)
        one.call('iterator_batch', second, 1)
        if moment == 'iterated':
            one.call('iterator_next', first)
            one.call('iterator_batch', second, 1)
            one.oneway('iterator_gc', [first, second, third])
            one.call('ping')
    elif moment == 'reading a log':
        one.call('undoLog', 0, 10)
        one.call('history', world.plain, 20)
    elif moment == 'downloading':
        one.start('sendBlob', world.blob, world.tid)
    elif moment == 'packing':
        one.call('pack', 0.0, True)


def change(world, one, other, moment):
    if moment == 'waiting':
        other.begin()
        other.store(world.new_oid())
        other.call('vote', 7)
    one.begin()
    one.store(world.new_oid())
    upload(one, world.new_oid())
    if moment == 'uploading':
        one.oneway('storeBlobStart')
        one.oneway('storeBlobChunk', b'y')
    if moment == 'resolving':
        one.store(world.plain)
    if moment == 'undoing':
        one.oneway('undoa', base64.encodebytes(world.tid).rstrip(), 7)
    if moment in ('begun', 'uploading'):
        return
    voting = one.start('vote', 7)
    if moment == 'waiting':
        return
    one.result(voting)
    if moment in ('finished', 'old and finished'):
        finish(world, one)
    elif moment == 'aborted':
        one.call('tpc_abort', 7)
    elif moment == 'timed out':
        world.desk.loop.advance(31)


def finish(world, client):
    """What it is told is true (C24)."""
    before = world.storage._ltid
    finishing = client.start('tpc_finish', 7)
    if client.has_reply(finishing):
        try:
            tid = client.result(finishing)
        except CommitOutcomeUnknown:
            pass
        except Exception as error:
            if 'CommitOutcomeUnknown' not in str(error):  # as Z4 clients are told
                world.answers.append((before, world.storage._ltid))
        else:
            world.answers.append((tid, world.storage._ltid))


def files_left_open(world):
    """Paths in the blob directory; nothing where the system does not tell.

    The directory of temporary files is open as long as there are some.  A pack that fails, ZODB's, leaves its
    list open.
    """
    paths = []
    for link in Path('/proc/self/fd').glob('*'):
        with contextlib.suppress(OSError):
            paths.append(os.readlink(link))
    permitted = ('/.removed', world.temporary) if os.listdir(world.temporary) else ('/.removed',)
    return [path for path in paths
            if path.startswith(world.storage.fshelper.base_dir) and not path.endswith(permitted)]


def check_that_the_others_go_on(world):
    """Nothing is held, nobody waits, nothing is left, and a new client commits at once, blobs too."""
    served = world.desk.served['1']
    assert not world.storage._commit_lock.locked()
    assert world.script.iterators == []
    assert files_left_open(world) == []
    assert all(told == true for told, true in world.answers)
    assert served.lock.waiting == 0 and served.audience.present() == []
    assert served.stats.active_txns == 0 and served.status()['lock_holder'] is None
    client, listener = world.desk.connect(), world.desk.connect()
    oids = [world.new_oid(), world.new_oid()]
    client.begin()
    client.store(oids[0])
    upload(client, oids[1])
    client.call('vote', 7)
    tid = client.call('tpc_finish', 7)
    assert invalidations(listener) == [(tid, oids)]
    client.hang_up()
    listener.hang_up()


@pytest.mark.once
@pytest.mark.parametrize('after', [False, True], ids=['instead', 'afterwards'])
@pytest.mark.parametrize('error', ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize('moment', MOMENTS)
def test_whatever_fails_at_whatever_step_the_others_go_on(make_world, moment, error, after, caplog):
    """C21, L3, L9, L10, B2: for every N, the N-th use of storage, iterator or file raises."""
    caplog.set_level(logging.CRITICAL + 1)
    world = make_world(moment)
    for number in range(1, MANY):
        play(world, moment, partial(world.script.arm, number, error, after))
        if not world.script.disarm():
            break
        if world.storage._file.closed:  # FileStorage gives up its file when a sync fails
            world = make_world(moment)
            continue
        check_that_the_others_go_on(world)
    else:
        raise AssertionError('the scenario does not end')
    assert number > 1
    # What could not be removed at once is at most what one failed removal left.
    assert len(os.listdir(world.temporary)) <= number


def test_steps_are_taken_each_on_its_own(caplog):
    """C21"""
    taken = []

    def fails():
        taken.append('fails')
        raise OSError('no')
    assert take_steps('the end of x', lambda: taken.append(1), fails, lambda: taken.append(2)) is False
    assert taken == [1, 'fails', 2]
    assert take_steps('the end of x', lambda: taken.append(3)) is True
    assert [record.getMessage()[:27] for record in caplog.records] == ['the end of x: a step failed']


def test_nothing_is_granted_to_the_gone(caplog):
    """C21: a waiting client vanishes in a way that nobody noticed; the next one gets the lock."""
    desk = Desk()
    holder, gone, following = desk.connect(), desk.connect(), desk.connect()
    for client in (holder, gone, following):
        client.begin()
        client.store(OIDS[0])
    holder.call('vote', 7)
    gone.start('vote', 7)
    voting = following.start('vote', 7)
    gone.channel.lost = 'without a word'  # and without `handle_lost`
    holder.call('tpc_abort', 7)
    assert following.result(voting) == []
    assert following.call('tpc_finish', 7)


@pytest.mark.parametrize('timeout_s', [0, 30])
def test_the_watchdog_ends_a_holder_whose_connection_is_closed(timeout_s, caplog):
    """C21, L10: also where a commit may take for ever."""
    desk = Desk(timeout_s=timeout_s)
    gone, following = desk.connect(), desk.connect()
    gone.begin()
    gone.store(OIDS[0])
    gone.call('vote', 7)
    gone.channel.lost = 'without a word'
    following.begin()
    following.store(OIDS[1])
    voting = following.start('vote', 7)
    assert not following.has_reply(voting)
    desk.loop.advance(6)
    assert following.result(voting) == []
    assert 'its connection is closed, but it held the commit lock' in caplog.text


class Broken(MappingStorage):
    """Raises in what a server asks after a commit."""

    broken = False

    def getSize(self):
        if self.broken:
            raise OSError(errno.ESTALE, 'the database behind it is away for a moment')
        return super().getSize()

    def __len__(self):
        if self.broken:
            raise OSError(errno.ESTALE, 'the database behind it is away for a moment')
        return super().__len__()


def test_what_fails_after_the_storage_has_committed_is_no_failure_of_the_commit(caplog):
    """C21, C24: the committer gets its tid, the others are told, the lock is free."""
    storage = Broken()
    desk = Desk({'1': storage})
    client, other = desk.connect(), desk.connect()
    client.begin()
    client.store(OIDS[0])
    client.call('vote', 7)
    storage.broken = True
    tid = client.call('tpc_finish', 7)
    assert storage.lastTransaction() == tid
    assert invalidations(other) == [(tid, [OIDS[0]])]
    storage.broken = False
    assert other.commit(OIDS[1])


def test_a_pack_whose_end_fails_is_answered(caplog):
    """C21: the size of the storage is asked after it."""
    storage = Broken()
    desk = Desk({'1': storage})
    client = desk.connect()
    storage.broken = True
    assert client.call('pack', 0.0, True) is None


def test_a_client_that_cannot_be_told_keeps_nobody_from_being_told(caplog):
    """C21, C17: it is disconnected, and finds out what it missed."""
    desk = Desk()
    committer, deaf, other = desk.connect(), desk.connect(), desk.connect()

    def send(data):
        raise MemoryError
    deaf.channel.send = send
    tid = committer.commit(OIDS[0])
    assert deaf.lost == 'it could not be told: MemoryError'
    assert invalidations(other) == [(tid, [OIDS[0]])]


def test_a_client_that_cannot_even_be_sent_away_keeps_nobody_from_being_told(caplog):
    """C21"""
    desk = Desk()
    committer, deaf, other = desk.connect(), desk.connect(), desk.connect()

    def fails(*_):
        raise RuntimeError('a bug in the server')
    deaf.channel.send = deaf.channel.lose = fails
    tid = committer.commit(OIDS[0])
    assert invalidations(other) == [(tid, [OIDS[0]])]
    del deaf.channel.lose


def test_if_nobody_can_be_told_of_a_transaction_all_have_to_verify(monkeypatch, caplog):
    """C21, C1: nobody goes on with what was; the committer finds out."""
    desk = Desk()
    committer, other = desk.connect(), desk.connect()
    committer.call('identify', bytes(16), 0)

    def no_memory(*_):
        raise MemoryError
    with monkeypatch.context() as context:
        context.setattr(audience, 'encode_oneway', no_memory)
        committer.begin()
        committer.store(OIDS[0])
        committer.call('vote', 7)
        committer.start('tpc_finish', 7)
    assert 'caches must be verified' in other.lost and 'caches must be verified' in committer.lost
    again = desk.connect()
    again.call('identify', bytes(16), 7)
    tid = desk.storages['1'].lastTransaction()
    assert again.call('commit_outcome', 7) == ('committed', tid)
    assert again.call('getInvalidations', z64) is None
    assert again.commit(OIDS[1])


def test_nothing_is_granted_at_once_to_the_gone():
    """C21: the blobs of its transaction were being brought to the disk when it went."""
    desk = Desk()
    gone, following = desk.connect(), desk.connect()
    gone.begin()
    gone.channel.lost = 'without a word'
    gone.member.transactor.vote(7)
    assert desk.ruok()['1']['lock_holder'] is None
    assert following.commit(OIDS[0])


class Upstream(MappingStorage):
    """Loses track of what others do, and cannot say where it is, for a moment."""

    lost = False

    def registerDB(self, db):
        self.db = db

    def lastTransaction(self):
        if self.lost:
            raise OSError(errno.ECONNREFUSED, 'the server behind it is away')
        return super().lastTransaction()


def test_clients_go_although_the_storage_cannot_tell_where_it_is(caplog):
    """C21, C1: and none comes before it can."""
    storage = Upstream()
    desk = Desk({'1': storage})
    client, newcomer = desk.connect(), desk.stranger()
    tid = client.commit(OIDS[0])
    newcomer.greet()
    storage.lost = True
    storage.db.invalidateCache()
    with pytest.raises(OSError, match='is away'):
        desk.loop.turn()
    assert 'caches must be verified' in client.lost
    with pytest.raises(OSError, match='is away'):
        newcomer.call('register', '1', False)
    storage.lost = False
    assert newcomer.call('register', '1', False) == tid
    assert newcomer.call('getInvalidations', z64) is None


class Beating:
    """What a session does at a heartbeat."""

    def __init__(self, error=None):
        self.beats = 0
        self._error = error

    def beat(self):
        self.beats += 1
        if self._error is not None:
            raise self._error


def test_a_heart_goes_on_beating_whatever_one_session_does(caplog):
    """C21, N1"""
    loop = HandLoop(ClockRuntime())
    ill, well = Beating(RuntimeError('a bug')), Beating()
    Heartbeat(loop, [ill, well], 10).start()
    for _ in range(3):
        loop.advance(5)
    assert ill.beats == well.beats == 3


def test_a_watchdog_watches_on_whatever_happens_when_it_barks():
    """C21, L1"""
    class Holder:
        ended = False

        def held_long(self, held_s):
            raise RuntimeError('a bug')

        def timed_out(self, timeout_s):
            self.ended = True

    loop, holder = HandLoop(ClockRuntime()), Holder()
    Watchdog(loop, 30).start(holder)
    for _ in range(40):
        with contextlib.suppress(RuntimeError):
            loop.advance(1)
    assert holder.ended


@pytest.mark.parametrize('kind', ['iterator_next', 'iterator_batch'])
def test_an_iterator_that_cannot_be_closed_has_ended_all_the_same(kind, caplog):
    """C21: its client is told the end, and no error."""
    class Transactions:
        def __iter__(self):
            return iter(())

        def close(self):
            raise OSError(errno.ESTALE, 'stale file handle')

    storage = MappingStorage()
    storage.iterator = lambda *_: Transactions()
    client = Desk({'1': storage}).connect()
    iterator = client.call('iterator_start', None, None)
    arguments = (iterator,) if kind == 'iterator_next' else (iterator, 1000)
    assert not client.call(kind, *arguments)
    client.oneway('iterator_gc', [client.call('iterator_start', None, None)])
    assert client.call('ping') is None
    assert caplog.text.count('the end of an iterator: a step failed') == 2


# ---- the server itself ------------------------------------------------------------------------------

def test_a_server_whose_storage_fails_at_the_start_leaves_nothing_behind(tmp_path):
    """C21: neither a socket that nobody serves nor a thread; the storages are the caller's."""
    path = str(tmp_path / 'socket')
    storage = MappingStorage()
    storage.registerDB = lambda db: 1 / 0
    with pytest.raises(ZeroDivisionError):
        StorageServer(path, {'1': storage})
    assert not os.path.exists(path)
    assert storage.opened()
    del storage.registerDB
    StorageServer(path, {'1': storage}).close()


def test_a_server_is_closed_if_a_subscriber_of_its_start_fails(tmp_path, monkeypatch):
    """C21"""
    def fails(event):
        raise RuntimeError('a bug of the application')
    path = str(tmp_path / 'socket')
    monkeypatch.setattr(ZODB.event, 'notify', fails)
    with pytest.raises(RuntimeError, match='a bug of the application'):
        StorageServer(path, {'1': MappingStorage()})
    assert not os.path.exists(path)


def test_every_step_of_a_servers_end_is_taken(tmp_path, monkeypatch, caplog):
    """C21: a socket that cannot be removed, a storage and a subscriber that fail."""
    closed = []

    class Failing(MappingStorage):
        def close(self):
            closed.append(self)
            raise OSError(errno.EIO, 'no')

    def fails(*_):
        raise OSError(errno.EROFS, 'read-only file system')
    storages = {'1': Failing(), '2': Failing()}
    server = StorageServer(str(tmp_path / 'socket'), storages)
    server.start_thread()
    monkeypatch.setattr(server.runtime, 'remove', fails, raising=False)
    monkeypatch.setattr(ZODB.event, 'notify', fails)
    server.close()
    assert closed == list(storages.values())
    assert not server._thread.is_alive()
    assert caplog.text.count('a step failed') == 4


def test_a_connection_that_cannot_be_greeted_is_forgotten(new_server, monkeypatch, caplog):
    """C21, N6: it does not count any more."""
    def fails(*_):
        raise RuntimeError('a bug')
    server = new_server()
    with monkeypatch.context() as context:
        context.setattr(ServerCore, 'greet', fails)
        with socket.create_connection(server.addr, 10) as connection:
            assert connection.recv(100) == b''
    with socket.create_connection(server.addr, 10) as connection:
        assert connection.recv(100)
        assert len(inside.sessions(server)) == 1
