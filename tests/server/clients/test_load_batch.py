"""``load_batch``: loadBefore of many objects at once, for our own clients' prefetch."""
from __future__ import annotations

import pytest
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import POSKeyError
from ZODB.utils import maxtid, p64

from zeo_clone.server.clients import reading
from zeo_clone.zrpc import batches

OIDS = [p64(number) for number in range(10)]
ALL = b''.join(OIDS)


@pytest.fixture(params=[FileStorage, MappingStorage])
def storage(request, tmp_path):
    storage = request.param(str(tmp_path / 'Data.fs'))
    yield storage
    storage.close()


def load(client, oids, tid=maxtid, size=1 << 20):
    return batches.split(client.call('load_batch', oids, tid, size), len(oids) // 8)


def singly(client, oids, tid=maxtid):
    """The same by loadBefore."""
    def one(oid):
        try:
            return client.call('loadBefore', oid, tid)
        except POSKeyError:
            return None

    return [one(oids[at:at + 8]) for at in range(0, len(oids), 8)]


def test_clients_are_told_that_there_is_one(client):
    assert 'load_batch' in client.call('get_info')['extensions']


def test_it_has_what_single_loads_have(client):
    """Current and past revisions, in any order; nothing where an object is unknown, or was not there yet."""
    first = client.commit(*OIDS[:5], data=b'one')
    second = client.commit(*OIDS[3:5], data=b'two', serial=first)
    third = client.commit(OIDS[8])
    some = b''.join((OIDS[4], OIDS[9], OIDS[0], OIDS[8], OIDS[0]))
    for tid in (maxtid, third, second, first):
        for oids in (ALL, some):
            assert load(client, oids, tid) == singly(client, oids, tid)
    assert load(client, some) == [
        (b'two', second, None), None, (b'one', first, None), (b'data', third, None), (b'one', first, None)]
    assert load(client, some, second) == [(b'one', first, second), None, (b'one', first, None), None,
                                          (b'one', first, None)]


def test_it_ends_when_there_are_enough_bytes_but_is_not_empty(client):
    client.commit(*OIDS, data=b'x' * 100)
    assert [len(load(client, ALL, size=size)) for size in (-5, 0, 1, 100, 101, 200, 950, 1 << 30)] == [
        1, 1, 1, 1, 2, 2, 10, 10]


def test_a_large_object_travels_alone(client, monkeypatch):
    """S5b: no message grows without bound, whatever a client asks for."""
    monkeypatch.setattr(reading, 'MAX_LOAD_BATCH', 1000)
    client.commit(*OIDS[:3], data=b'x' * 300)
    client.commit(OIDS[3], data=b'x' * 5000)
    assert len(load(client, ALL, size=1 << 30)) == 3
    assert len(load(client, ALL[24:], size=1 << 30)) == 1


def test_each_load_is_counted(client, desk):
    client.commit(*OIDS[:5])
    before = desk.served['1'].stats.loads
    load(client, ALL)
    assert desk.served['1'].stats.loads == before + 10


def test_a_storage_that_fails_is_one_clear_error(client, storage, monkeypatch):
    """S3: one reply, with what the storage raised; the connection goes on."""
    def broken(oid, tid):
        raise OSError(5, 'Input/output error')

    client.commit(*OIDS)
    monkeypatch.setattr(storage, 'loadBefore', broken)
    with pytest.raises(Exception, match='Input/output error'):
        load(client, ALL)
    monkeypatch.undo()
    assert len(load(client, ALL)) == 10


@pytest.mark.parametrize('args', [
    (b'', maxtid, 1), (b'x', maxtid, 1), (bytes(8008), maxtid, 1), ([OIDS[0]], maxtid, 1),
    (ALL, b'short', 1), (ALL, None, 1), (ALL, maxtid, None), (ALL, maxtid, 1 << 40)])
def test_bad_arguments_are_an_error(client, args):
    """S5a: the client is told what is wrong; nothing is loaded."""
    with pytest.raises(ValueError, match='load_batch: .* expected'):
        client.call('load_batch', *args)
    assert client.lost is None


def test_it_ends_when_its_time_is_over(client, desk, monkeypatch):
    """S11: a storage that is slow does not keep the others waiting; the client asks again for the rest."""
    load_before = desk.storages['1'].loadBefore

    def slow(oid, tid):
        desk.runtime.now += 0.0004
        return load_before(oid, tid)

    monkeypatch.setattr(reading, 'LOADS_PER_LOOK', 1)
    client.commit(*OIDS)
    monkeypatch.setattr(desk.storages['1'], 'loadBefore', slow)
    assert len(load(client, ALL)) == 3
