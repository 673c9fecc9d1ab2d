"""C21 on the client: files of cache and blobs, and callbacks, raise at their N-th use, for every N.

After each: whoever waits can commit, the storage can be closed, and nothing is left: no lock, no file, no
descriptor.  What tpc_finish says is true (C24).
"""
from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import threading
from functools import partial
from pathlib import Path

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.utils import z64

from tests.storage.helpers import BLOB_RECORD, commit, store
from tests.support.brittle import Script, brittle_files
from tests.support.server_process import ServerProcess
from zeo_clone.cache import ClientCache
from zeo_clone.ClientStorage import ClientStorage
from zeo_clone.Exceptions import ClientDisconnected, CommitOutcomeUnknown
from zeo_clone.loop.runtime import REAL, Runtime

pytestmark = [pytest.mark.long, pytest.mark.once]

#: How to make an error, and whether it comes after the work has been done.
ERRORS = [(partial(OSError, errno.EIO, 'the disk does not answer'), False),
          (partial(RuntimeError, 'a bug'), True)]
MOMENTS = ['opened', 'committed', 'aborted', 'told', 'loaded', 'shared']
#: More uses than any scenario has.
MANY = 400
BLOB_SIZE = 70_000  # two messages


@pytest.fixture(scope='module')
def served(tmp_path_factory):
    """A server for all scenarios, and its directory."""
    directory = tmp_path_factory.mktemp('server')
    with ServerProcess([{'kind': 'file', 'path': str(directory / 'Data.fs'),
                         'blob_dir': str(directory / 'blobs')}]) as process:
        yield process, directory


class World:
    """A second client, and a directory for the first one's files."""

    def __init__(self, served, directory):
        self.process, self.server_directory = served
        self._directory = directory
        self.directory = directory  # of the present client, new for each
        self.script = Script()
        self.other = ClientStorage(self.process.address, blob_dir=str(directory / 'other'))
        self.answers = []  # to tpc_finish: what must then be in the storage, and what is
        self._numbers = itertools.count(1)

    def close(self):
        self.other.close()

    def begin(self):
        """Another client."""
        self.directory = self._directory / str(next(self._numbers))
        self.directory.mkdir()

    def blob_dirs(self):
        return [self.directory / 'blobs', self.server_directory / 'blobs']

    def open(self, moment):
        shared = moment == 'shared'
        progress = partial(self.script.use, 'progress', lambda *_: None)
        return ClientStorage(
            self.process.address, cache=str(self.directory / 'client.zec'), shared_blob_dir=shared,
            blob_dir=str(self.blob_dirs()[shared]), blob_cache_size=None if shared else 10_000,
            blob_progress=None if shared else progress, cache_size=200_000, wait_timeout=20)

    def new_blob(self):
        """The path of a file to be stored."""
        path = self.directory / f'new {next(self._numbers)}'
        path.write_bytes(b'x' * BLOB_SIZE)
        return str(path)


@pytest.fixture
def world(served, tmp_path, monkeypatch):
    """A World; all that this process opens from now on counts."""
    world = World(served, tmp_path)
    for name, method in vars(brittle_files(Runtime(), world.script)).items():
        monkeypatch.setattr(REAL, name, method, raising=False)
    yield world
    world.script.disarm()
    world.close()


class Database:
    """What ZODB's wrapper of a database would be; hearing of others is a use."""

    def __init__(self, script):
        self._script = script

    def invalidate(self, tid, oids):
        self._script.use('invalidate', lambda: None)

    def invalidateCache(self):
        self._script.use('invalidateCache', lambda: None)

    def transform_record_data(self, data):
        return data

    untransform_record_data = transform_record_data


def play(world, moment, arm):
    """A client does something and is closed; errors that it is told are its own business."""
    world.begin()
    other, oid = world.other, world.other.new_oid()
    tid = commit(other, ('storeBlob', oid, z64, BLOB_RECORD, world.new_blob(), ''))
    arm()
    storage = None
    try:
        with contextlib.suppress(Exception):
            storage = world.open(moment)
            storage.registerDB(Database(world.script))
            if moment == 'loaded':
                storage.loadBlob(oid, tid)
                storage.openCommittedBlobFile(oid, tid).close()
            elif moment == 'told':
                storage.load(oid)
                commit(other, store(oid, b'changed', tid))
                storage.ping()
                storage.load(oid)
            elif moment != 'opened':
                write(world, storage, moment)
        if storage is not None and world.script.has_raised:
            world.script.disarm()
            check_that_it_goes_on(world, storage, oid)
    finally:
        if storage is not None:
            storage.close()


def write(world, storage, moment):
    transaction = TransactionMetaData()
    storage.tpc_begin(transaction)
    try:
        oid = storage.new_oid()
        storage.store(storage.new_oid(), z64, b'new', '', transaction)
        storage.storeBlob(oid, z64, BLOB_RECORD, world.new_blob(), '', transaction)
        storage.tpc_vote(transaction)
        if moment == 'aborted':
            raise RuntimeError('the application has thought better of it')
        finish(world, storage, oid, transaction)
    except BaseException:
        storage.tpc_abort(transaction)
        raise


def finish(world, storage, oid, transaction):
    """What it is told is true: nobody else commits."""
    try:
        tid = storage.tpc_finish(transaction, partial(world.script.use, 'callback', lambda tid: None))
    except CommitOutcomeUnknown:
        return
    except ClientDisconnected:
        tid = None
    try:
        found = world.other.getTid(oid)
    except KeyError:
        found = None
    world.answers.append((tid, found))


def check_that_it_goes_on(world, storage, oid):
    """The storage commits, blobs too, and sees what others commit."""
    assert storage.tpc_transaction() is None
    new = storage.new_oid()
    tid = commit(storage, ('storeBlob', new, z64, BLOB_RECORD, world.new_blob(), ''))
    world.other.ping()
    assert world.other.load(new) == (BLOB_RECORD, tid)
    tid = commit(world.other, store(oid, b'seen', world.other.load(oid)[1]))
    storage.ping()
    assert storage.load(oid) == (b'seen', tid)
    with storage.openCommittedBlobFile(new, storage.load(new)[1]) as file:
        assert len(file.read()) == BLOB_SIZE


def check_that_nothing_is_left(world, failed):
    """Neither a lock nor a file, unless it was its removal that failed, nor a descriptor or a thread."""
    ClientCache(str(world.directory / 'client.zec')).close()
    if failed != 'remove':
        assert [path for where in world.blob_dirs()
                for path in (*where.glob('tmp/*'), *where.glob('**/*.tmp'))] == []
    assert files_left_open(str(world.directory)) == []
    assert [thread for thread in threading.enumerate() if 'clean-up' in thread.name] == []
    assert all(told == true for told, true in world.answers)


def files_left_open(directory):
    """Paths; nothing where the system does not tell."""
    paths = []
    for link in Path('/proc/self/fd').glob('*'):
        with contextlib.suppress(OSError):
            paths.append(os.readlink(link))
    return [path for path in paths if path.startswith(directory)]


@pytest.mark.parametrize(('make_error', 'after'), ERRORS, ids=['OSError', 'RuntimeError'])
@pytest.mark.parametrize('moment', MOMENTS)
def test_whatever_fails_at_whatever_step_the_client_goes_on(world, moment, make_error, after, caplog):
    """C21, C24, L3, B2, B10: for every N, the N-th use of a file or a callback raises."""
    caplog.set_level(logging.CRITICAL + 1)
    for number in range(1, MANY):
        play(world, moment, lambda number=number: world.script.arm(number, make_error(), after))
        if not world.script.has_raised:
            break
        failed = world.script.used[number - 1]
        world.script.disarm()
        check_that_nothing_is_left(world, failed)
    else:
        raise AssertionError('the scenario does not end')
    assert number > 5
