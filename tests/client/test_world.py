"""What storages share is a world; all that a client does goes through its runtime."""
from __future__ import annotations

import os
import threading
import time

import pytest
import ZODB
from persistent.mapping import PersistentMapping
from ZODB.blob import BlobStorage
from ZODB.Connection import TransactionMetaData
from ZODB.MappingStorage import MappingStorage
from ZODB.utils import maxtid, p64, z64

from tests.support.elsewhere import LATER_S, NOWHERE, Elsewhere
from zeo_clone.client.storage import ClientStorage
from zeo_clone.client.world import REAL_WORLD, World

OID = p64(99)


@pytest.fixture
def served(new_server, tmp_path):
    """A server of blobs."""
    return new_server({'1': BlobStorage(str(tmp_path / 'served'), MappingStorage())})


@pytest.fixture
def new_world(tmp_path):
    """Make worlds, each with an empty directory; they end with the test."""
    made = []

    def make(**parts):
        directory = tmp_path / f'world{len(made)}'
        directory.mkdir()
        made.append(World(Elsewhere(directory), **parts))
        return made[-1]

    yield make
    for world in made:
        world.close()


def open_storage(server, world, **options):
    return ClientStorage(server.addr, world=world, wait_timeout=20, cache=f'{NOWHERE}/cache.zec',
                         blob_dir=f'{NOWHERE}/blobs', **options)


def commit_blob(storage, runtime, oid, serial, data):
    path = os.path.join(storage.temporaryDirectory(), 'mine')
    with runtime.open(path, 'wb') as file:
        file.write(data)
    transaction = TransactionMetaData()
    storage.tpc_begin(transaction)
    storage.storeBlob(oid, serial, b'record', path, '', transaction)
    storage.tpc_vote(transaction)
    return storage.tpc_finish(transaction)


@pytest.mark.parametrize('io_thread', [True, False])
def test_nothing_of_a_client_goes_past_its_runtime(served, new_world, io_thread):
    """DB, commits, cache file, blobs up and down, cleaning them up: there are no such files elsewhere."""
    world = new_world()
    runtime = world.runtime
    storage = open_storage(served, world, io_thread=io_thread, blob_cache_size=10)
    db = ZODB.DB(storage)
    with db.transaction() as connection:
        connection.root()['x'] = PersistentMapping(a=1)
    tid = commit_blob(storage, runtime, OID, z64, b'blob' * 30_000)
    db.close()

    storage = open_storage(served, world, io_thread=io_thread)
    db = ZODB.DB(storage)
    with db.transaction() as connection:
        assert connection.root()['x']['a'] == 1
    assert storage.cache_stats()['hits'] > 0
    path = storage.loadBlob(OID, tid)
    with storage.openCommittedBlobFile(OID, tid) as file:
        assert file.read() == b'blob' * 30_000
    assert runtime.size(path) == 120_000
    db.close()

    assert not os.path.exists(NOWHERE)
    assert [path for path in runtime.files if not path.startswith(NOWHERE)] == []
    assert sorted(set(os.listdir(runtime.directory)) - {'cache.zec.lock'}) == ['blobs', 'cache.zec']
    assert ('zeo_clone I/O' in runtime.threads) == io_thread


def test_a_temporary_cache_a_shared_directory_and_a_copy_are_in_the_world_too(served, new_world, tmp_path):
    world = new_world()
    os.symlink(tmp_path / 'served', tmp_path / 'world0' / 'shared')
    storage = ClientStorage(served.addr, world=world, wait_timeout=20, blob_dir=f'{NOWHERE}/shared',
                            shared_blob_dir=True)
    tid = commit_blob(storage, world.runtime, OID, z64, b'data')
    with storage.openCommittedBlobFile(OID, tid) as file:
        assert file.read() == b'data'
    assert world.runtime.temporary_files == 1
    assert [path for path in world.runtime.files if not path.startswith(NOWHERE)] == []
    storage.close()


def test_a_world_has_its_own_clock(fake, new_world):
    """A pack without a time is as of now, whenever that is."""
    asked = []
    fake.answers['pack'] = lambda connection, t, wait: asked.append(t)
    before = time.time()
    ClientStorage(fake.address, world=new_world(), wait_timeout=20).pack()
    assert asked[0] >= before + LATER_S


def test_worlds_are_processes(served, new_world):
    """Each has its I/O thread; ending one ends nothing of another.  They hear of each other by the server."""
    before = set(threading.enumerate())
    worlds = [new_world(), new_world()]
    storages = [open_storage(served, world) for world in worlds]
    first, second = storages
    tid = commit_blob(first, worlds[0].runtime, OID, z64, b'one')
    second.ping()
    assert second.loadBefore(OID, maxtid) == (b'record', tid, None)
    io_threads = [thread for thread in set(threading.enumerate()) - before if thread.name == 'zeo_clone I/O']
    assert len(io_threads) == 2
    assert REAL_WORLD.io_thread is not worlds[0].io_thread

    worlds[0].close()
    assert not first.is_connected()
    assert second.loadBefore(OID, tid) is None
    second.ping()
    assert sum(thread.is_alive() for thread in io_threads) == 1


def test_each_world_has_a_loop_for_its_application(served, new_world):
    one, other = new_world(), new_world()
    storage = ClientStorage(served.addr, world=one, wait_timeout=20, io_thread=False)
    assert len(one.application.get()) == 1
    assert len(other.application.get()) == 0
    assert other.application.poll(0) is False
    storage.close()
    one.application.loop(0.01, 3)  # there is nothing left to turn for
    assert len(one.application.get()) == 0
