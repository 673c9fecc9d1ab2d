"""Extensions end to end: what was written without a server, what is committed through one, and copies."""
from __future__ import annotations

import datetime
import sys
from decimal import Decimal
from types import ModuleType
from uuid import UUID

import pytest
import ZODB
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.utils import p64, z64

from tests.server.desk import Desk
from tests.storage.helpers import commit, store
from tests.support import inside
from tests.support.server_process import ServerProcess

WHEN = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)
RICH = {'when': WHEN, 'sum': Decimal('9.99'), 'id': UUID(int=7), 'n': 10 ** 100, 'plain': [1, 'x']}
MODULE = 'only_the_application_has_this'


@pytest.fixture
def only_here(monkeypatch):
    """A class that can be imported in this process and nowhere else."""
    module = ModuleType(MODULE)
    exec('class Thing:\n    pass', module.__dict__)
    monkeypatch.setitem(sys.modules, MODULE, module)
    return module.Thing


def write(path, *extensions):
    """A file with a transaction for each, all of the root object; the tids, newest first."""
    storage = FileStorage(str(path))
    tids = [z64]
    for number, extension in enumerate(extensions):
        meta = TransactionMetaData(b'user', b'number %d' % number, extension)
        storage.tpc_begin(meta)
        storage.store(z64, tids[0], b'record %d' % number, '', meta)
        storage.tpc_vote(meta)
        tids.insert(0, storage.tpc_finish(meta))
    storage.close()
    return tids[:-1]


def stored_extensions(storage):
    return [record.extension_bytes for record in storage.iterator()]


@pytest.fixture
def old_file(tmp_path, only_here):
    """Served: a file with extensions of all kinds.  ``(address, path, tids)``."""
    path = tmp_path / 'Old.fs'
    tids = write(path, {}, RICH, {'thing': only_here(), 'n': 1}, {'plain': 1})
    with ServerProcess([{'kind': 'file', 'path': str(path)}]) as server:
        yield server, str(path), tids


def test_one_odd_extension_keeps_nobody_from_the_others(old_file, client):
    """S3.  A date, and an object of a class that the server does not have."""
    server, path, tids = old_file
    storage = client(server.address)
    log = storage.undoLog(0, 10)
    assert [entry['description'] for entry in log] == [b'number %d' % n for n in (3, 2, 1, 0)]
    assert {key: log[2][key] for key in RICH} == RICH
    assert storage.undoInfo(0, 10) == log
    for size in (4, 10, 1000):
        history = storage.history(z64, size)
        assert [entry['tid'] for entry in history] == tids
        assert [entry['size'] for entry in history] == [8] * 4
        assert history[1]['thing'] == f'<{MODULE}.Thing>'
        assert history[0]['plain'] == 1
        assert history[2]['description'] == b'number 1'
    found = list(storage.iterator())
    assert [record.tid for record in found] == tids[::-1]
    assert found[1].extension == RICH
    assert found[2].extension == {'thing': f'<{MODULE}.Thing>', 'n': 1}
    assert 'Traceback' not in server.log()
    local = FileStorage(path, read_only=True)
    assert [record.extension_bytes for record in found] == stored_extensions(local)
    local.close()


def test_iterations_step_by_step_are_lossless_as_well(tmp_path, client, only_here):
    """A transaction that is too large for a batch."""
    tids = write(tmp_path / 'Data.fs', RICH)
    with ServerProcess([{'kind': 'file', 'path': str(tmp_path / 'Data.fs')}]) as server:
        storage = client(server.address)
        inside.link(storage).info['extensions'] = ['rich_values']
        found = next(storage.iterator())
        assert found.extension == RICH
        assert [record.tid for record in found] == tids


@pytest.mark.parametrize('extension', [RICH, {'n': 2 ** 8000}, {'nested': {'when': [WHEN]}}, {}, {'x': 'y'}])
def test_commits_take_what_a_filestorage_takes(blob_server, client, tmp_path, extension):
    """And store the same bytes as without a server."""
    storage = client(blob_server.address)
    db = ZODB.DB(storage)
    with db.transaction() as connection:
        connection.root()['x'] = 1
        connection.transaction_manager.get().extension.update(extension)
    write(tmp_path / 'Alone.fs', extension)
    alone = FileStorage(str(tmp_path / 'Alone.fs'), read_only=True)
    *_, last = storage.iterator()
    assert last.extension == extension
    assert last.extension_bytes == stored_extensions(alone)[0]
    alone.close()
    db.close()


def test_what_the_server_must_not_store_is_committed_as_text(blob_server, client, only_here):
    """S9: the storage would make the object again and again."""
    storage = client(blob_server.address)
    meta = TransactionMetaData(b'', b'', {'thing': only_here(), 'f': None, 'n': 2})
    storage.tpc_begin(meta)
    storage.store(z64, z64, b'data', '', meta)
    storage.tpc_vote(meta)
    storage.tpc_finish(meta)
    expected = {'thing': f'<{MODULE}.Thing>', 'f': None, 'n': 2}
    assert next(storage.iterator()).extension == expected
    assert expected.items() <= storage.undoLog(0, 1)[0].items()


def test_copies_into_a_client_and_out_of_it_keep_extensions_byte_for_byte(tmp_path, client):
    write(tmp_path / 'Source.fs', {}, RICH, {'b': 1, 'a': 1, 'same': ['x', 'x']})
    source = FileStorage(str(tmp_path / 'Source.fs'), read_only=True)
    expected = stored_extensions(source)
    with ServerProcess([{'kind': 'file', 'path': str(tmp_path / 'Copy.fs')}]) as server:
        storage = client(server.address)
        storage.copyTransactionsFrom(source)
        assert stored_extensions(storage) == expected
        back = FileStorage(str(tmp_path / 'Back.fs'))
        back.copyTransactionsFrom(storage)
        assert stored_extensions(back) == expected
        back.close()
    source.close()


def test_a_file_is_copied_whatever_its_extensions_name(tmp_path, client, only_here, monkeypatch):
    """Nothing that the source names has to be importable."""
    write(tmp_path / 'Source.fs', {'thing': only_here()}, {'n': 1})
    monkeypatch.delitem(sys.modules, MODULE)
    source = FileStorage(str(tmp_path / 'Source.fs'), read_only=True)
    with ServerProcess([{'kind': 'file', 'path': str(tmp_path / 'Copy.fs')}]) as server:
        storage = client(server.address)
        storage.copyTransactionsFrom(source)
        assert [record.extension for record in storage.iterator()] == [
            {'thing': f'<{MODULE}.Thing>'}, {'n': 1}]
    source.close()


def test_extensions_pass_through_a_server_between(old_file, client):
    """A server whose storage is a client itself."""
    server, path, tids = old_file
    with ServerProcess([{'kind': 'client', 'addr': server.address}]) as between:
        storage = client(between.address)
        local = FileStorage(path, read_only=True)
        assert stored_extensions(storage) == stored_extensions(local)
        local.close()
        assert RICH.items() <= storage.undoLog(0, 10)[2].items()
        tid = commit(storage, store(p64(1), b'data'))
        meta = TransactionMetaData(b'', b'', RICH)
        storage.tpc_begin(meta)
        storage.store(p64(1), tid, b'data', '', meta)
        storage.tpc_vote(meta)
        storage.tpc_finish(meta)
        *_, last = storage.iterator()
        assert last.extension == RICH


def test_a_client_that_has_not_asked_for_more_gets_plain_values(tmp_path):
    """ZEO's, and older ones of ours."""
    write(tmp_path / 'Data.fs', RICH)
    storage = FileStorage(str(tmp_path / 'Data.fs'))
    desk = Desk({'1': storage})
    other = desk.connect()
    expected = {'when': repr(WHEN), 'sum': "Decimal('9.99')", 'id': repr(UUID(int=7)),
                'n': f'<an integer of {(10 ** 100).bit_length()} bits>', 'plain': [1, 'x']}
    assert expected.items() <= other.call('undoLog', 0, 1)[0].items()
    assert expected.items() <= other.call('undoInfo', 0, 1, None)[0].items()
    assert expected.items() <= other.call('history', z64, 1)[0].items()
    assert other.call('iterator_next', other.call('iterator_start', None, None))[4] == expected
    assert other.call('iterator_batch', other.call('iterator_start', None, None), 1)[0][0][4] == expected
    desk.close()
    storage.close()


def test_values_of_other_storages_are_sent_as_they_are(new_server, client):
    """A MappingStorage keeps the object itself."""
    storage = client(new_server({'1': MappingStorage()}).addr)
    meta = TransactionMetaData(b'', b'', RICH)
    storage.tpc_begin(meta)
    storage.store(z64, z64, b'data', '', meta)
    storage.tpc_vote(meta)
    storage.tpc_finish(meta)
    assert next(storage.iterator()).extension == RICH
    assert storage.history(z64)[0]['extension'] == RICH
