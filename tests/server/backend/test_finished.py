"""L6: transactions are read in other threads, while the loop's writes one to the same file."""
from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from zc.zlibstorage import ServerZlibStorage, ZlibStorage
from ZODB.DemoStorage import DemoStorage
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.utils import maxtid, p64

from tests.server.desk import Desk
from zeo_clone.server.backend.descriptions import look_up
from zeo_clone.server.backend.finished import transactions
from zeo_clone.server.backend.groupcommit import GroupCommitStorage
from zeo_clone.server.backend.missed import changed_between
from zeo_clone.server.backend.past import has_transaction

OIDS = [p64(number) for number in range(1, 4)]
#: ZODB looks at files from so many bytes on in another way.
LARGE = 1 << 20
LIMIT_S = 20  # only a test that fails meets it


@pytest.fixture(params=[FileStorage, GroupCommitStorage])
def storage(request, tmp_path):
    with closing(request.param(str(tmp_path / 'Data.fs'))) as storage:
        yield storage


@pytest.fixture
def client(storage):
    return Desk({'1': storage}).connect()


@pytest.fixture(params=[b'data', b'x' * LARGE], ids=['small', 'large'])
def tids(request, client):
    """Of three transactions."""
    return [client.commit(oid, data=request.param) for oid in OIDS]


def write_a_part(storage, rest=b''):
    """The loop's thread is writing a transaction."""
    with open(storage.getName(), 'ab') as file:
        file.write(b'\1' * 1000 + rest)


def read(client, start=None, stop=None):
    number = client.call('iterator_start', start, stop)
    return [found[0] for found in iter(lambda: client.call('iterator_next', number), None)]


@pytest.mark.parametrize('rest', [b'', bytes(7) + b'\x17'])
def test_a_transaction_that_is_being_written_is_not_looked_at(storage, client, tids, rest, caplog):
    write_a_part(storage, rest)
    assert read(client, tids[0]) == tids
    assert read(client, tids[1], tids[1]) == tids[1:2]
    assert read(client, tids[2]) == tids[2:]
    assert read(client, p64(int.from_bytes(tids[2], 'big') + 1)) == []
    assert read(client) == tids
    assert caplog.records == []


def test_verification_and_histories_do_not_look_at_it_either(storage, tids):
    """C22"""
    write_a_part(storage)
    assert changed_between(storage, tids[1], tids[2]) == OIDS[2:]
    assert has_transaction(storage, tids[1], tids[2]) is True
    assert [found['tid'] for found in look_up(storage, OIDS[2], 10)] == tids[2:]


@pytest.mark.parametrize('around', [
    ZlibStorage, ServerZlibStorage, lambda base: DemoStorage(base=base),
    lambda base: DemoStorage(changes=ZlibStorage(base))], ids=['zlib', 'server', 'base', 'changes'])
def test_nor_do_storages_around_the_file(storage, tids, around, caplog):
    """C22: a database that is compressed, or one on top of another."""
    outer = around(storage)
    client = Desk({'1': outer}).connect()
    caplog.clear()
    write_a_part(storage)
    assert read(client, tids[1]) == tids[1:]
    assert changed_between(outer, tids[1], tids[2]) == OIDS[2:]
    assert has_transaction(outer, tids[1], tids[2]) is True
    with closing(transactions(outer, tids[1])) as found:
        assert next(iter(found)).tid == tids[1]
    assert caplog.records == []


def test_what_the_storage_around_the_file_makes_of_its_records_stays_so(storage):
    outer = ZlibStorage(storage)
    Desk({'1': outer}).connect().commit(OIDS[0], data=b'x' * 1000)
    with closing(transactions(outer)) as found:
        (record,), = map(list, found)
    assert record.data == b'x' * 1000 != storage.loadBefore(OIDS[0], maxtid)[0]


def test_what_is_committed_meanwhile_is_no_damage(storage, client, tids, caplog):
    with closing(transactions(storage, tids[1])) as found:
        client.commit(p64(9))
        assert [transaction.tid for transaction in found] == tids[1:]
    assert caplog.records == []


def test_nobody_waits_while_the_place_to_begin_at_is_looked_for(storage, tids, caplog):
    """D1, L6: half a large file may have to be read for that."""
    with ThreadPoolExecutor(1) as others:
        log = logging.getLogger('ZODB.FileStorage')
        looking = []

        def emit(record):
            if 'looking for' in record.getMessage():
                looking.append(others.submit(storage.new_oid).result(LIMIT_S))

        handler = logging.Handler()
        handler.emit = emit
        log.addHandler(handler)
        try:
            with caplog.at_level(logging.DEBUG, log.name), closing(transactions(storage, tids[1])) as found:
                assert next(iter(found)).tid == tids[1]
        finally:
            log.removeHandler(handler)
    assert looking


def test_an_empty_file_has_none(storage):
    with closing(transactions(storage, p64(1))) as found:
        assert list(found) == []


def test_another_storage_is_asked_itself():
    storage = MappingStorage()
    client = Desk({'1': storage}).connect()
    tids = [client.commit(oid) for oid in OIDS]
    assert [transaction.tid for transaction in transactions(storage, tids[1])] == tids[1:]
