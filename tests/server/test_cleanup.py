"""C21: whatever fails while a session works or ends, the others go on.

A storage, its iterators and the files of uploads raise at their N-th use, for every N, in scenarios that end
a session at each moment of a transaction.
"""
from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import sys
from functools import partial

import pytest
from transaction.interfaces import TransientError
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.utils import p64, z64

from tests.server.desk import Desk
from tests.support.brittle import Script, brittle
from zeo_clone.Exceptions import CommitOutcomeUnknown
from zeo_clone.steps import take_steps

OIDS = [p64(number) for number in range(1, 5)]
BLOB = b'cZODB.blob\nBlob\n.N.'
ERRORS = [OSError(errno.EIO, 'the disk does not answer'), RuntimeError('a bug in the storage')]
#: What the client that goes away has done by then.
MOMENTS = ['connected', 'iterating', 'begun', 'uploading', 'waiting', 'voted', 'finished', 'aborted',
           'timed out']
#: More uses than any scenario has.
MANY = 200


class World:
    """A desk over a storage with blobs that can be made to fail."""

    def __init__(self, directory, script):
        self.script = script
        self.storage = brittle(FileStorage, script)(
            str(directory / 'Data.fs'), blob_dir=str(directory / 'blobs'))
        self.desk = Desk({'1': self.storage})
        self.temporary = self.storage.fshelper.temp_dir
        self._oids = map(p64, itertools.count(100))

    def new_oid(self):
        return next(self._oids)

    def close(self):
        self.desk.close()
        self.storage.close()


@pytest.fixture
def script(monkeypatch):
    """What the storages and the files of uploads count on."""
    script = Script()
    for name in ('remove', 'close', 'fdopen', 'rename'):
        monkeypatch.setattr(os, name, partial(script.use, name, getattr(os, name)))
    return script


@pytest.fixture
def make_world(tmp_path, script):
    """Make a new World."""
    worlds = []

    def make():
        directory = tmp_path / str(len(worlds))
        directory.mkdir()
        worlds.append(World(directory, script))
        return worlds[-1]

    yield make
    script.disarm()
    for world in worlds:
        world.close()


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
    one.greet()
    arm()
    with contextlib.suppress(Exception):
        one.call('register', '1', False)
        if moment == 'iterating':
            iterator = one.call('iterator_start', None, None)
            one.call('iterator_next', iterator)
        if moment == 'waiting':
            other.begin()
            other.store(world.new_oid())
            other.call('vote', 7)
        if moment not in ('connected', 'iterating'):
            one.begin()
            one.store(world.new_oid())
            upload(one, world.new_oid())
        if moment == 'uploading':
            one.oneway('storeBlobStart')
            one.oneway('storeBlobChunk', b'y')
        if moment in ('waiting', 'voted', 'finished', 'aborted', 'timed out'):
            voting = one.start('vote', 7)
            if moment != 'waiting':
                one.result(voting)
        if moment == 'finished':
            one.call('tpc_finish', 7)
        if moment == 'aborted':
            one.call('tpc_abort', 7)
        if moment == 'timed out':
            desk.loop.advance(31)
    one.hang_up()
    with contextlib.suppress(Exception):
        other.call('tpc_finish', 7)
    other.hang_up()


def check_that_the_others_go_on(world):
    """Nothing is held, nobody waits, nothing is left, and a new client commits at once, blobs too."""
    served = world.desk.served['1']
    assert world.storage.tpc_transaction() is None
    assert served.waiting == 0 and list(served.sessions) == []
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


@pytest.mark.parametrize('after', [False, True], ids=['instead', 'afterwards'])
@pytest.mark.parametrize('error', ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize('moment', MOMENTS)
def test_whatever_fails_at_whatever_step_the_others_go_on(make_world, moment, error, after, caplog):
    """C21, L3, L9, L10, B2: for every N, the N-th use of storage, iterator or file raises."""
    caplog.set_level(logging.CRITICAL + 1)
    world = make_world()
    for number in range(1, MANY):
        play(world, moment, partial(world.script.arm, number, error, after))
        if not world.script.disarm():
            break
        if world.storage._file.closed:  # FileStorage gives up its file when a sync fails
            world = make_world()
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
    assert deaf.lost == 'it could not be told of invalidateTransaction: MemoryError'
    assert invalidations(other) == [(tid, [OIDS[0]])]


# ---- C24: what the storage holds after a tpc_finish that raised ------------------------------------

TOKEN = bytes(16)


@pytest.fixture
def file_desk(tmp_path):
    storage = FileStorage(str(tmp_path / 'Data.fs'))
    desk = Desk({'1': storage})
    yield desk
    desk.close()
    storage.close()


def outcome_after(desk, tpc_finish):
    """What a client with a token is told by tpc_finish, and then by commit_outcome."""
    client = desk.connect()
    client.call('identify', TOKEN, 0)
    client.begin()
    client.store(OIDS[0])
    client.call('vote', 7)
    desk.served['1'].storage.tpc_finish = tpc_finish
    try:
        told = client.call('tpc_finish', 7)
    except Exception as error:
        told = error
    del desk.served['1'].storage.tpc_finish
    return told, client.call('commit_outcome', 7)


def test_an_error_after_the_storage_committed_is_a_commit(file_desk):
    """C24: a file that could not be renamed any more, say; the others are told."""
    storage = file_desk.served['1'].storage
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
    storage = file_desk.served['1'].storage

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
    storage = file_desk.served['1'].storage

    def fails(*_):
        storage.lastTransaction = storage.tpc_transaction = fails
        raise OSError(errno.EIO, 'gone')
    told, outcome = outcome_after(file_desk, fails)
    del storage.lastTransaction, storage.tpc_transaction
    assert (type(told), outcome) == (CommitOutcomeUnknown, ('unknown', None))
