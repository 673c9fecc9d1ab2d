"""The server's memory stays flat, seen from outside: B9, and a transaction of many objects.

``benchmarks/memory.py`` prints the same figures for 1 GB and 200,000 objects.
"""
from __future__ import annotations

from ZODB.utils import maxtid, p64

from tests.storage.helpers import commit, store, store_blob
from tests.support.memory import Peak

MB = 1 << 20


def test_a_large_blob_goes_up_and_down_in_little_memory(blob_server, client, tmp_path):
    """B9: 200 MB."""
    up = client(blob_server.address, blob_dir=str(tmp_path / 'up'))
    down = client(blob_server.address, blob_dir=str(tmp_path / 'down'))
    oid, size = up.new_oid(), 200 * MB
    operation = store_blob(oid, tmp_path / 'blob', b'')
    with open(tmp_path / 'blob', 'wb') as file:
        file.truncate(size)
    with Peak(blob_server.pid) as peak:
        tid = commit(up, operation)
        with down.openCommittedBlobFile(oid, tid) as file:
            assert file.seek(0, 2) == size
    assert peak.bytes < 30 * MB


def test_a_transaction_of_many_objects_takes_little_memory(blob_server, client):
    """L7: 20,000 objects of 1,000 bytes, 20 MB."""
    storage = client(blob_server.address)
    commit(storage, store(p64(1), b'warm up'))
    oids = [p64(number) for number in range(10, 20_010)]
    with Peak(blob_server.pid) as peak:
        tid = commit(storage, *(store(oid, bytes(1000)) for oid in oids))
    assert storage.loadBefore(oids[-1], maxtid)[1] == tid
    assert peak.bytes < 12 * MB
