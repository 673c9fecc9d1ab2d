"""Iteration and copying between real processes: many transactions in few round trips."""
from __future__ import annotations

import pytest
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.utils import p64, z64

from tests.storage.helpers import commit, store
from tests.support.proxy import UP, Proxy
from tests.support.server_process import ServerProcess

TRANSACTIONS = 3000


@pytest.fixture
def many(tmp_path):
    """A FileStorage file with TRANSACTIONS transactions of one record, and their tids."""
    path = str(tmp_path / 'Many.fs')
    storage = FileStorage(path)
    tids = [z64]
    for number in range(TRANSACTIONS):
        tids.append(commit(storage, store(p64(0), b'record %d' % number, tids[-1])))
    storage.close()
    return path, tids[1:]


def test_thousands_of_transactions_take_few_round_trips(many, client):
    path, tids = many
    with ServerProcess([{'kind': 'file', 'path': path}]) as server, Proxy(server.address) as proxy:
        storage = client(proxy.address)
        before = proxy.frames[UP]
        found = [(transaction.tid, [record.data for record in transaction])
                 for transaction in storage.iterator()]
        assert proxy.frames[UP] - before < 20
        assert found == [(tid, [b'record %d' % number]) for number, tid in enumerate(tids)]
        some = [transaction.tid for transaction in storage.iterator(tids[100], tids[1900])]
        assert some == tids[100:1901]
        storage.close()


def test_iterators_that_nobody_ends_are_collected(blob_server, client):
    """More of them than the server lets a client have open."""
    storage = client(blob_server.address)
    tids = [commit(storage, store(p64(number), b'data')) for number in range(3)]
    for _ in range(1500):
        assert next(storage.iterator()).tid == tids[0]
    assert [transaction.tid for transaction in storage.iterator()] == tids


def test_an_iteration_that_loses_its_server_says_so(many, client):
    """It cannot go on elsewhere; a new one can."""
    from zeo_clone.Exceptions import ClientDisconnected
    path, tids = many
    with ServerProcess([{'kind': 'file', 'path': path}]) as server, Proxy(server.address) as proxy:
        storage = client(proxy.address)
        iterator = storage.iterator()
        proxy.cut_all()
        with pytest.raises(ClientDisconnected):
            list(iterator)
        assert sum(1 for _ in storage.iterator()) == len(tids)
        storage.close()


@pytest.mark.once
def test_a_storage_is_copied_into_a_client_and_out_of_it(many, client, tmp_path):
    """`copyTransactionsFrom` in both directions: the same transactions with the same records."""
    path, tids = many
    watched = []
    with ServerProcess([{'kind': 'file', 'path': str(tmp_path / 'Copy.fs')}]) as server:
        storage = client(server.address)
        source = FileStorage(path, read_only=True)
        storage.copyTransactionsFrom(source, lambda tid, records: watched.append((tid, records)))
        source.close()
        assert watched == [(tid, 1) for tid in tids]
        assert storage.lastTransaction() == tids[-1]
        assert storage.load(z64) == (b'record %d' % (TRANSACTIONS - 1), tids[-1])
        back = MappingStorage()
        for transaction in storage.iterator():
            back.tpc_begin(transaction, transaction.tid)
            for record in transaction:
                back.store(record.oid, back.getTid(z64) if len(back) else z64, record.data, '', transaction)
            back.tpc_vote(transaction)
            back.tpc_finish(transaction)
        assert [transaction.tid for transaction in back.iterator()] == tids
        storage.close()
