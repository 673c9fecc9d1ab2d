"""Storages and disks that fail, clients that may not write, errors that travel."""
from __future__ import annotations

import inspect
import threading

import pytest
from ZODB import POSException
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.interfaces import IStorageTransactionInformation
from ZODB.MappingStorage import MappingStorage
from ZODB.utils import p64, z64

from tests.storage.helpers import channel, commit, no_larger_files, store
from zeo_clone.Exceptions import ServerException

STEPS = ['new_oid', 'tpc_begin', 'store', 'checkCurrentSerialInTransaction', 'tpc_vote', 'tpc_finish']


class Failing(MappingStorage):
    """Raises `error` in the method `step`, once."""

    def __init__(self):
        super().__init__()
        self.step = None
        self.error = None

    def fail(self, step, error):
        self.step, self.error = step, error


def failing_method(name):
    def method(self, *args, **options):
        if self.step == name:
            self.step = None
            raise self.error
        return getattr(MappingStorage, name)(self, *args, **options)
    return method


for failing in (*STEPS, 'loadSerial'):
    setattr(Failing, failing, failing_method(failing))


@pytest.mark.parametrize('error', [POSException.StorageError('no'), RuntimeError('no'), OSError(28, 'full')],
                         ids=lambda error: type(error).__name__)
@pytest.mark.parametrize('step', STEPS)
def test_after_a_failure_at_any_step_all_can_commit(new_server, client, step, error):
    """L3: the client that met the failure, and another one."""
    served = Failing()
    server = new_server({'1': served})
    one, other = client(server.addr), client(server.addr)
    oid = z64
    serial = commit(one, store(oid, b'first'))
    served.fail(step, error)
    with pytest.raises((POSException.StorageError, ServerException, OSError)):
        commit(one, ('checkCurrentSerialInTransaction', oid, serial), store(one.new_oid(), b'new'))
    assert served.step is None
    for storage in (other, one, other):
        serial = commit(storage, store(oid, b'next', serial))
        storage.new_oid()
    one.ping()  # the last commit's invalidation has arrived then
    assert one.load(oid) == other.load(oid) == (b'next', serial)
    assert other.server_status()['active_txns'] == 0


def test_no_space_in_the_temporary_directory_is_a_clean_abort(blob_server, client):
    """L7: the message names the directory; small commits stay in memory and go on."""
    storage = client(blob_server.address)
    serial = commit(storage, store(p64(1), b'before'))
    with no_larger_files(blob_server, 1_000_000):
        with pytest.raises(OSError, match='temporary directory /'):
            commit(storage, *(store(p64(number), bytes(100_000)) for number in range(2, 80)))
        serial = commit(storage, store(p64(1), b'meanwhile', serial))
    commit(storage, *(store(p64(number), bytes(100_000)) for number in range(2, 80)))
    assert storage.load(p64(1)) == (b'meanwhile', serial)


class IterationWaits(FileStorage):
    """Its iterator does not go on until it is told to."""

    def __init__(self, path):
        super().__init__(path)
        self.iterating = threading.Event()
        self.go_on = threading.Event()

    def iterator(self, *args):
        yield from super().iterator(*args)
        self.iterating.set()
        assert self.go_on.wait(30)


def test_a_long_iteration_does_not_delay_others(new_server, client, in_thread, tmp_path):
    """L6: others load and commit, iterate and ask for the undo log; so does the same client."""
    served = IterationWaits(str(tmp_path / 'Data.fs'))
    server = new_server({'1': served})
    slow, other = client(server.addr), client(server.addr)
    serial = commit(other, store(z64, b'first'))
    run = in_thread(list, slow.iterator())
    try:
        assert served.iterating.wait(30)
        for storage in (slow, other) * 5:
            serial = commit(storage, store(z64, b'next', serial))
            assert storage.load(z64) == (b'next', serial)
        assert len(other.undoLog(0, 100)) == 11
        assert run.is_running()
    finally:
        served.go_on.set()
    transactions = run.result()
    assert all(IStorageTransactionInformation.providedBy(found) for found in transactions)
    assert [record.data for record in transactions[0]] == [b'first']


def storage_errors():
    """An instance of each exception that a storage may raise."""
    special = {
        POSException.POSKeyError: POSException.POSKeyError(p64(7)),
        POSException.ConflictError: POSException.ConflictError(
            'both', oid=p64(7), serials=(p64(2), p64(1)), data=None),
        POSException.ReadConflictError: POSException.ReadConflictError(
            'stale', oid=p64(7), serials=(p64(2), p64(1))),
        POSException.BTreesConflictError: POSException.BTreesConflictError(1, 2, 3, 4),
        POSException.DanglingReferenceError: POSException.DanglingReferenceError(p64(1), p64(2)),
        POSException.UndoError: POSException.UndoError('no way', p64(7)),
        POSException.MultipleUndoErrors: POSException.MultipleUndoErrors([(p64(7), 'no way')]),
        POSException.InvalidObjectReference: POSException.InvalidObjectReference('which', None),
    }
    for _, cls in inspect.getmembers(POSException, inspect.isclass):
        if issubclass(cls, POSException.POSError) and cls.__module__ == POSException.__name__:
            yield special.get(cls) or cls('why', 'so')
    yield from (KeyError('key'), TypeError('type', 1), ValueError('value'), OSError(28, 'no space'),
                FileNotFoundError(2, 'where', '/there'))


@pytest.mark.parametrize('error', list(storage_errors()), ids=lambda error: type(error).__name__)
def test_exceptions_keep_type_and_arguments(new_server, client, error):
    """S4: from the storage on the server to the application, and nothing is lost."""
    served = Failing()
    storage = client(new_server({'1': served}).addr)
    served.fail('loadSerial', error)
    with pytest.raises(type(error)) as caught:
        storage.loadSerial(p64(1), p64(1))
    received = caught.value
    assert type(received) is type(error)
    assert received.args == error.args
    assert {**vars(received)} == {**vars(error)}
    assert str(received) == str(error)
    assert getattr(received, 'errno', None) == getattr(error, 'errno', None)


def test_an_exception_that_is_not_known_tells_its_name(new_server, client):
    """S4: and nothing of that name is imported."""
    served = Failing()
    storage = client(new_server({'1': served}).addr)
    served.fail('loadSerial', RuntimeError('broken'))
    with pytest.raises(ServerException, match='RuntimeError.*broken'):
        storage.loadSerial(p64(1), p64(1))


WRITES = [
    ('storea', (p64(1), z64, b'data')),
    ('restorea', (p64(1), p64(9), b'data', None)),
    ('deleteObject', (p64(1), z64)),
    ('undoa', (p64(1),)),
    ('storeBlobStart', None),
    ('storeBlobShared', (p64(1), z64, b'data', '0x01-1-1.tmp')),
    ('checkCurrentSerialInTransaction', (p64(1), z64)),
]


@pytest.mark.parametrize('verb, args', WRITES, ids=[verb for verb, _ in WRITES])
@pytest.mark.parametrize('read_only', ['client', 'server'])
def test_a_read_only_session_cannot_write(tmp_path, new_server, client, verb, args, read_only):
    """S7: by no method, also if the client forgets that it is read-only; `pack` is allowed."""
    served = FileStorage(str(tmp_path / 'Data.fs'), blob_dir=str(tmp_path / 'blobs'))
    server = new_server({'1': served}, read_only=read_only == 'server')
    storage = client(server.addr, read_only=True)
    wire = channel(storage)
    with pytest.raises(POSException.ReadOnlyError):
        wire.call('new_oids', (10,))
    wire.send('tpc_begin', (1, b'', b'', {}, None, ' '))
    wire.send(verb, () if args is None else (*args, 1))
    if args is None:
        wire.send('storeBlobChunk', (b'data',))
        wire.send('storeBlobEnd', (p64(1), z64, b'data', 1))
    with pytest.raises(POSException.ReadOnlyError):
        wire.call('vote', (1,))
    wire.call('tpc_abort', (1,))
    assert served.lastTransaction() == z64
    assert list((tmp_path / 'blobs' / 'tmp').iterdir()) == []
    storage.pack()


def test_a_client_that_is_read_only_says_so_before_it_asks(blob_server, client):
    """S7."""
    storage = client(blob_server.address, read_only=True)
    transaction = TransactionMetaData()
    for write in (storage.new_oid, lambda: storage.tpc_begin(transaction)):
        with pytest.raises(POSException.ReadOnlyError):
            write()


def test_a_read_only_server_refuses_a_client_that_wants_to_write(new_server, client):
    """S7: at the connect, unless the client falls back to reading."""
    server = new_server(read_only=True)
    with pytest.raises(Exception, match='(?i)read.?only'):
        client(server.addr, wait_timeout=1)
    assert client(server.addr, read_only_fallback=True).isReadOnly()
