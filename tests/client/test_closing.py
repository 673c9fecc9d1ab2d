"""C21: the end of a storage is a list of steps; whichever raises, the others are taken."""
from __future__ import annotations

import contextlib
import subprocess
import sys

import pytest
import ZODB
from ZODB.Connection import TransactionMetaData
from ZODB.utils import p64, z64

from tests.support import inside
from tests.support.json_process import child_environment
from tests.support.server_process import package_path
from zeo_clone.cache import ClientCache
from zeo_clone.ClientStorage import ClientStorage
from zeo_clone.Exceptions import ClientDisconnected

OID = p64(1)
#: The parts of an open storage, each with what ends it.
PARTS = ['_manager', '_life', '_cache', '_blobs']
#: Two storages that are still open when the process ends; what ends the first one raises.
SCRIPT = '''
import sys
from zeo_clone.ClientStorage import ClientStorage
first, second = [ClientStorage((sys.argv[1], int(sys.argv[2])), cache=name) for name in sys.argv[3:]]
def fail():
    raise OSError(5, 'no')
first.close = fail
'''


def fail(*_):
    raise OSError(5, 'no')


@pytest.mark.parametrize('part', PARTS)
def test_a_storage_whose_part_cannot_be_ended_ends_the_others(new_server, tmp_path, part, monkeypatch):
    """C21, N12: the connection is gone, the cache file is free."""
    server = new_server()
    storage = ClientStorage(server.addr, cache=str(tmp_path / 'c.zec'), blob_dir=str(tmp_path / 'blobs'),
                            wait_timeout=2 if part == '_manager' else 20)  # which is waited for then
    owner = getattr(storage, part)
    end = 'end' if part == '_life' else 'close'
    real = getattr(owner, end)
    monkeypatch.setattr(owner, end, fail)
    storage.close()
    with pytest.raises(ClientDisconnected):
        storage.ping()
    if part != '_cache':
        ClientCache(str(tmp_path / 'c.zec')).close()
    real(*([storage] if part == '_life' else []))


def test_at_the_end_of_the_process_every_storage_is_closed(new_server, tmp_path):
    """C21, N12: whatever the end of one of them raises; the cache of the other is whole."""
    host, port = new_server().addr
    caches = [tmp_path / 'a.zec', tmp_path / 'b.zec']
    done = subprocess.run([sys.executable, '-c', SCRIPT, host, str(port), *map(str, caches)], text=True,
                          capture_output=True, env=child_environment(package_path()), timeout=60)
    assert done.returncode == 0
    with contextlib.closing(ClientCache(str(caches[1]))) as cache:
        assert cache.stats()['path'] == str(caches[1])


@pytest.mark.parametrize('step', ['tpc_abort', 'tpc_finish'])
def test_the_next_transaction_does_not_wait_for_files_that_cannot_be_removed(
        new_server, tmp_path, step, monkeypatch):
    """C21, C24: of blobs that were not committed, or were; nor is the caller told of them."""
    server = new_server()
    storage = ClientStorage(server.addr, blob_dir=str(tmp_path / 'blobs'))
    monkeypatch.setattr(inside.blobs(storage), 'discard', fail)
    for _ in range(2):
        transaction = TransactionMetaData()
        storage.tpc_begin(transaction)
        inside.engine(storage).committing.phase.blobs.append((OID, str(tmp_path / 'blobs' / 'none')))
        storage.store(storage.new_oid(), z64, b'x', '', transaction)
        storage.tpc_vote(transaction)
        inside.engine(storage).committing.phase.blobs[:] = [(OID, 'none')]
        told = getattr(storage, step)(transaction)
        assert told == (storage.lastTransaction() if step == 'tpc_finish' else None)
        assert storage.tpc_transaction() is None
    storage.close()


def test_a_database_on_a_storage_that_cannot_be_closed_well_is_closed(new_server, monkeypatch):
    """C21, N12"""
    storage = ClientStorage(new_server().addr)
    db = ZODB.DB(storage)
    monkeypatch.setattr(inside.manager(storage), 'close', fail)
    db.close()
    monkeypatch.undo()
    inside.manager(storage).close()
