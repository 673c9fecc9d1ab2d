"""RelStorage on SQLite, for one server: what clients see, and what is said when it is not alone (X4)."""
from __future__ import annotations

import base64
import os
import pickle
import signal
import sqlite3
import threading
import time

import pytest
import transaction
from BTrees.Length import Length
from ZODB import DB
from ZODB.blob import Blob
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import ConflictError, POSKeyError, StorageError, UndoError
from ZODB.tests.StorageTestBase import zodb_pickle
from ZODB.utils import maxtid, p64, u64, z64

from tests.server.test_server import Wire
from tests.support import inside
from tests.support.cleaning import Cleaning, store_blob
from tests.support.runzeo_process import MODULE, Runzeo
from tests.support.server_process import reserved_port
from zeo_clone.addresses import format_address
from zeo_clone.ClientStorage import ClientStorage
from zeo_clone.loop.runtime import REAL
from zeo_clone.server.backend.database.alone import alone

pytest.importorskip('relstorage', reason='RelStorage is not installed')

OID, OTHER = p64(1), p64(2)
LIMIT_S = 120  # only what hangs meets it


@pytest.fixture(params=['with history', 'without history'])
def keep_history(request):
    return request.param == 'with history'


@pytest.fixture
def new_storage(tmp_path, keep_history):
    """Open the RelStorage once more: ``new_storage(**options)``."""
    from relstorage.adapters.sqlite.adapter import Sqlite3Adapter
    from relstorage.options import Options
    from relstorage.storage import RelStorage
    opened = []

    def open_storage(**given):
        options = Options(**{'keep_history': keep_history, **given})
        adapter = Sqlite3Adapter(str(tmp_path / 'data'), {}, options=options)
        opened.append(RelStorage(adapter, options=options))
        return opened[-1]

    yield open_storage
    for storage in opened:
        storage.close()


class Wrapper:
    """Whom a storage tells what others have written."""

    def __init__(self):
        self.told = []

    def invalidate(self, tid, oids, version=''):
        self.told.append((tid, oids))

    def invalidateCache(self):
        self.told.append(None)

    def transform_record_data(self, data):
        return data

    untransform_record_data = transform_record_data


def attended(raw):
    """It as a server has it."""
    made = alone(raw, REAL)
    made.wrapper = Wrapper()
    made.registerDB(made.wrapper)
    return made


@pytest.fixture
def storage(new_storage):
    made = attended(new_storage())
    yield made
    made.close()


@pytest.fixture
def client():
    """Open a ClientStorage: ``client(address)``."""
    opened = []

    def connect(address, **options):
        opened.append(ClientStorage(address, wait_timeout=LIMIT_S, **options))
        return opened[-1]

    yield connect
    for storage in opened:
        storage.close()


@pytest.fixture
def wire():
    """Connect to a server, by frames."""
    wires = []

    def connect(server):
        wires.append(Wire(server.addr))
        wires[-1].socket.settimeout(LIMIT_S)
        wires[-1].register()
        return wires[-1]

    yield connect
    for each in wires:
        each.socket.close()


@pytest.fixture
def databases(new_storage, new_server, client, tmp_path):
    """A ZODB.DB in each of two clients of one server."""
    server = new_server({'1': new_storage(blob_dir=str(tmp_path / 'blobs'))})
    opened = [DB(client(server.addr, server_sync=True)) for _ in range(2)]
    yield opened
    for database in opened:
        database.close()


def vote(storage, *oids, serial=z64, data=b'data', tid=None):
    """A transaction up to its vote."""
    begun = TransactionMetaData()
    storage.tpc_begin(begun, tid)
    for oid in oids:
        storage.store(oid, serial, data, '', begun)
    storage.tpc_vote(begun)
    return begun


def commit(storage, *oids, **options):
    """Its tid."""
    return storage.tpc_finish(vote(storage, *oids, **options))


def notice(wire):
    """The next one-way call that is not about sizes."""
    while True:
        message_id, flag, name, args = pickle.loads(wire.receive())
        if (message_id, flag) == (0, 1) and name != 'info':
            return name, args


def fresh(database):
    """A transaction that begins with all that is committed."""
    database.storage.sync()
    return database.transaction()


def both_change(databases, change):
    """Each client changes the same, of the same state; then they commit, one after the other."""
    managers = [transaction.TransactionManager() for _ in databases]
    connections = [database.open(manager) for database, manager in zip(databases, managers, strict=True)]
    try:
        for connection in connections:
            change(connection.root())
        for manager in managers:
            manager.commit()
    finally:
        for manager, connection in zip(managers, connections, strict=True):
            manager.abort()
            connection.close()


# ---- two clients of one server --------------------------------------------------------------------

def test_conflicts_are_resolved_or_tried_again(databases):
    """X4, S9: what cannot be resolved is a ConflictError, with which a transaction is tried again."""
    first, second = databases
    with first.transaction() as connection:
        connection.root()['sum'] = Length()
    second.storage.sync()
    both_change(databases, lambda root: root['sum'].change(1))
    with fresh(first) as connection:
        assert connection.root()['sum']() == 2
    second.storage.sync()
    with pytest.raises(ConflictError) as caught:
        both_change(databases, lambda root: root.update(number=root.get('number', 0) + 1))
    assert type(caught.value) is ConflictError and caught.value.oid == z64
    manager = transaction.TransactionManager()
    for attempt in manager.attempts():
        with attempt:
            connection = second.open(manager)
            connection.root()['number'] += 1
    connection.close()
    with fresh(first) as connection:
        assert connection.root()['number'] == 2


def test_conflicts_are_resolved_with_what_was_there_before_the_start(new_storage):
    """S9: without history, too, where it is replaced meanwhile."""
    raw = new_storage()
    storage = attended(raw)
    base = commit(storage, OID, data=zodb_pickle(Length(0)))
    storage.close()
    raw.close()
    storage = attended(new_storage())
    first = commit(storage, OID, serial=base, data=zodb_pickle(Length(1)))
    commit(storage, OID, serial=first, data=zodb_pickle(Length(3)))
    commit(storage, OID, serial=base, data=zodb_pickle(Length(4)))
    assert storage.load(OID)[0] == zodb_pickle(Length(7))
    storage.close()


def test_a_read_that_was_relied_on_is_checked(new_storage, new_server, wire):
    """A serial that is not current any more is a conflict at the vote."""
    here = wire(new_server({'1': new_storage()}))
    tid = here.commit(OID)
    assert here.commit(OID, serial=tid)
    here.oneway('tpc_begin', 8, b'', b'', {}, None, ' ')
    here.oneway('checkCurrentSerialInTransaction', OID, tid, 8)
    here.oneway('storea', OTHER, z64, b'data', 8)
    with pytest.raises(AssertionError, match='ReadConflictError'):
        here.call('vote', 8)
    here.call('tpc_abort', 8)
    assert here.commit(p64(3))
    with pytest.raises(AssertionError, match='POSKeyError'):
        here.call('loadBefore', OTHER, maxtid)


# ---- what was refused -----------------------------------------------------------------------------

READ = p64(7)  # an object that somebody else has written since it was read


def refuse_reading(storage, read, begun):
    """What was relied on is not current any more."""
    storage.checkCurrentSerialInTransaction(READ, read, begun)


def refuse_writing(storage, read, begun):
    """A conflict that nobody can resolve."""
    storage.store(READ, read, b'data', '', begun)


def fail_to_resolve(storage, read, begun):
    """An error in its resolution."""
    inside.wrapper(storage).untransform_record_data = None
    refuse_writing(storage, read, begun)


def fill_the_disk(storage, read, begun):
    """SQLite has no room for it."""
    inside.writing(storage).execute('PRAGMA max_page_count = 1')
    storage.store(OTHER, z64, b'large' * 100_000, '', begun)


def write_beside(storage, read, begun):
    """Another process has written, which is found after all is voted."""
    look = storage.look
    storage.look = lambda: setattr(storage, 'look', look) or True


def fail_to_commit(storage, read, begun):
    """The disk fails; SQLite rolls back itself."""
    def commit_phase2(connection, *_):
        del txncontrol.commit_phase2
        connection.connection.execute('ROLLBACK')
        raise sqlite3.OperationalError('disk I/O error')

    txncontrol = inside.adapter(storage).txncontrol
    txncontrol.commit_phase2 = commit_phase2


def give_up(storage, read, begun):
    """The client does, after the vote."""
    storage.tpc_vote(begun)
    raise ConnectionError


@pytest.mark.parametrize('refuse', [
    refuse_reading, refuse_writing, fail_to_resolve, fill_the_disk, write_beside, fail_to_commit, give_up])
def test_nothing_that_was_refused_is_committed_with_the_next(refuse, new_storage, tmp_path):
    """C2, D1: nor is anything compared with it; blobs and records."""
    storage = attended(new_storage(blob_dir=str(tmp_path / 'blobs')))
    read = commit(storage, READ)
    before = commit(storage, READ, serial=read)
    blob = tmp_path / 'blob'
    blob.write_bytes(b'refused')
    begun = TransactionMetaData()
    storage.tpc_begin(begun)
    storage.store(OID, z64, b'refused', '', begun)
    storage.storeBlob(p64(3), z64, b'refused', str(blob), '', begun)
    with pytest.raises((ConflictError, StorageError, ConnectionError)):
        refuse(storage, read, begun)
        storage.tpc_vote(begun)
        storage.tpc_finish(begun)
    storage.tpc_abort(begun)
    assert storage.changed_between(before, commit(storage, OTHER)) == [OTHER]
    commit(storage, OID, p64(3))
    storage.close()


@pytest.mark.parametrize('do', ['restore', 'undo', 'deleteObject'])
def test_nothing_else_that_was_given_up_is_committed_with_the_next(do, storage, keep_history):
    """C2, D1: what is written before the vote."""
    first = commit(storage, OID)
    begun = TransactionMetaData()
    if do == 'undo':
        if not keep_history:
            return
        storage.tpc_begin(begun)
        storage.undo(base64.encodebytes(first)[:-1], begun)
    elif do == 'restore':
        tid = p64(u64(first) + 1)
        storage.tpc_begin(begun, tid)
        storage.restore(p64(3), tid, b'given up', '', None, begun)
    else:
        storage.tpc_begin(begun)
        storage.deleteObject(OID, first, begun)
    storage.tpc_vote(begun)
    storage.tpc_abort(begun)
    last = commit(storage, OTHER)
    assert storage.changed_between(first, last) == [OTHER]
    assert storage.load(OID) == (b'data', first)


@pytest.fixture
def twice_written(new_storage):
    """A storage, and the tid of the second of two transactions, both of one object."""
    storage = attended(new_storage(pack_batch_timeout=0))
    first = commit(storage, z64, OID)
    yield storage, commit(storage, OID, serial=first, data=b'later')
    storage.close()


def undo(storage, tid):
    """Begin a transaction that does."""
    begun = TransactionMetaData()
    storage.tpc_begin(begun)
    try:
        assert storage.undo(base64.encodebytes(tid)[:-1], begun) == (None, [OID])
    except BaseException:
        storage.tpc_abort(begun)
        raise
    return begun


def references(record, oids=None):
    return [OID]


@pytest.mark.parametrize('keep_history', [True])
@pytest.mark.parametrize('packs', ['the server', 'another process', 'nobody any more'])
def test_what_is_being_packed_is_not_undone(packs, twice_written, new_storage):
    """C2: what was before it is gone by then, and an object without a record would be committed."""
    storage, second = twice_written
    refused = []

    def try_to_undo():
        if packs == 'nobody any more':
            raise OSError('the pack fails')
        with pytest.raises(UndoError, match='is being packed') as caught:
            undo(storage, second)
        refused.append(caught.value)

    with inside.pack_calls(try_to_undo, second):
        if packs == 'another process':
            new_storage(pack_batch_timeout=0).pack(time.time() + 10, references)
        elif packs == 'the server':
            storage.pack(time.time() + 10, references)
        else:
            with pytest.raises(OSError, match='the pack fails'):
                storage.pack(time.time() + 10, references)
            with pytest.raises(UndoError, match='the pack that was at it has failed'):
                undo(storage, second)
    assert storage.load(OID) == (b'later', second)
    assert len(refused) == (packs != 'nobody any more')
    third = commit(storage, OID, serial=second, data=b'third')
    storage.tpc_vote(begun := undo(storage, third))
    assert storage.tpc_finish(begun) > third
    assert storage.load(OID)[0] == b'later'


@pytest.mark.parametrize('keep_history', [True])
@pytest.mark.parametrize('end', ['tpc_finish', 'tpc_abort'])
def test_a_pack_waits_for_the_end_of_an_undo(end, twice_written):
    """C2: else it might not see what the undo refers to again."""
    storage, second = twice_written

    class Lock:
        """Of packs and undos; says that it is waited for."""

        def __enter__(self):
            asked.set()
            lock.acquire()

        def __exit__(self, *_):
            lock.release()

    asked = threading.Event()
    begun = undo(storage, second)
    lock = inside.swap_lock_of_packs(storage, Lock())
    pack = threading.Thread(target=storage.pack, args=(time.time() + 10, references), daemon=True)
    pack.start()
    assert asked.wait(LIMIT_S)
    inside.swap_lock_of_packs(storage, lock)
    storage.tpc_vote(begun)
    assert pack.is_alive() and not inside.is_packing(storage)
    getattr(storage, end)(begun)
    pack.join(LIMIT_S)
    assert not pack.is_alive()
    assert storage.load(OID)[0] == (b'data' if end == 'tpc_finish' else b'later')


def test_a_transaction_that_ends_before_its_vote_costs_no_connection(storage):
    """The connection of the commit before is used again."""
    first = commit(storage, OID)
    connection, = inside.pooled(storage)
    opened = connection.connection
    begun = TransactionMetaData()
    storage.tpc_begin(begun)
    storage.store(OID, first, b'data', '', begun)
    storage.tpc_abort(begun)
    commit(storage, OTHER)
    assert connection.connection is opened


# ---- what there is beside ---------------------------------------------------------------------------

def test_history_iteration_undo_and_packs(databases, keep_history):
    """C15, L5."""
    first, second = databases
    for number in range(3):
        with first.transaction(note=f'number {number}') as connection:
            connection.root()['number'] = number
    assert len(second.storage.history(z64, size=3)) == (3 if keep_history else 1)
    assert [entry.tid for entry in second.storage.iterator()][-1] == first.storage.lastTransaction()
    assert second.supportsUndo() is keep_history
    if keep_history:
        entry = second.undoLog(0, 1)[0]
        assert entry['description'] == 'number 2'
        second.undo(entry['id'])
        transaction.commit()
        with fresh(first) as connection:
            assert connection.root()['number'] == 1
    with first.transaction() as connection:
        connection.root()['dropped'] = dropped = Length(2)
        connection.add(dropped)
        oid = dropped._p_oid
    with first.transaction() as connection:
        del connection.root()['dropped']
    second.storage.pack(time.time() + 10)
    with pytest.raises(POSKeyError):
        second.storage.loadBefore(oid, maxtid)
    with fresh(second) as connection:
        assert connection.root()['number'] == (1 if keep_history else 2)
    with first.transaction() as connection:
        connection.root()['number'] = 7


@pytest.mark.parametrize('shared', [False, True])
def test_blobs_are_in_the_database_or_in_a_directory(shared, new_storage, new_server, client, tmp_path):
    """B6, B11: undone ones, too."""
    options = {'blob_dir': str(tmp_path / 'blobs'), 'shared_blob_dir': shared}
    server = new_server({'1': new_storage(**options)})
    databases = [DB(client(server.addr, blob_dir=str(tmp_path / name), server_sync=True)) for name in 'ab']
    try:
        for text in (b'first', b'second'):
            with databases[0].transaction() as connection:
                connection.root()['blob'] = Blob(text)
        with fresh(databases[1]) as connection, connection.root()['blob'].open() as file:
            assert file.read() == b'second'
        if databases[0].supportsUndo():
            databases[0].undo(databases[0].undoLog(0, 1)[0]['id'])
            transaction.commit()
            with fresh(databases[1]) as connection, connection.root()['blob'].open() as file:
                assert file.read() == b'first'
    finally:
        for database in databases:
            database.close()


def test_a_blob_is_read_while_relstorage_clears_its_cache_up(new_storage, new_server, client, tmp_path):
    """B6: it goes between its name and its opening, and is not taken for one that does not exist."""
    blobs = tmp_path / 'server'
    server = new_server({'1': new_storage(blob_dir=str(blobs))}, runtime=Cleaning(blobs))
    stored = store_blob(client(server.addr, blob_dir=str(tmp_path / 'writer')), tmp_path)
    with client(server.addr, blob_dir=str(tmp_path / 'reader')).openCommittedBlobFile(OID, stored) as file:
        assert file.read() == b'content'


def test_garbage_is_deleted_from_outside(storage):
    """And only what is as it was."""
    first = commit(storage, OID, OTHER)
    begun = TransactionMetaData()
    storage.tpc_begin(begun)
    with pytest.raises(ConflictError):
        storage.deleteObject(OID, p64(u64(first) - 1), begun)
    storage.deleteObject(OID, first, begun)
    storage.tpc_vote(begun)
    assert storage.getTid(OID) == first
    storage.tpc_finish(begun)
    with pytest.raises(POSKeyError):
        storage.loadBefore(OID, maxtid)
    assert storage.getTid(OTHER) == first
    assert not storage.look(), 'nobody else has written'


def test_a_copy_keeps_tids(storage):
    """C25: stored or restored, under a tid that is later than the last."""
    assert commit(storage, OID, tid=p64(5)) == p64(5)
    begun = TransactionMetaData()
    storage.tpc_begin(begun, p64(9), ' ')
    storage.restore(OTHER, p64(9), b'data', '', None, begun)
    with pytest.raises(ConflictError):
        storage.store(OID, z64, b'data', '', begun)
    storage.store(OID, p64(5), b'later', '', begun)
    storage.tpc_vote(begun)
    assert storage.tpc_finish(begun) == storage.getTid(OTHER) == storage.getTid(OID) == p64(9)
    with pytest.raises(StorageError, match='not later than the last one, 0000000000000009'):
        storage.tpc_begin(begun, p64(9))
    assert storage.tpc_transaction() is None


def test_a_transaction_does_one_kind_of_thing(storage, keep_history):
    """RelStorage would commit what was deleted or undone before it has voted on what is stored."""
    first = commit(storage, OID)
    begun = TransactionMetaData()
    storage.tpc_begin(begun)
    if keep_history:
        storage.undo(base64.encodebytes(first)[:-1], begun)
    else:
        storage.deleteObject(OID, first, begun)
    with pytest.raises(StorageError, match='cannot store and (undo|delete) in one transaction'):
        storage.store(OTHER, z64, b'data', '', begun)
    storage.tpc_abort(begun)
    assert storage.getTid(OID) == first


def test_what_is_known_of_a_transaction_whose_reply_was_lost(storage, keep_history):
    """C11: it is in the database, or it is not there and never will be."""
    first = commit(storage, OID)
    voted = vote(storage, OTHER)
    coming = storage.coming_tid
    assert coming > first and storage.has_transaction(first, coming) is False
    assert storage.tpc_finish(voted) == coming
    assert storage.has_transaction(first, coming) is True
    between = p64(u64(coming) - 1)
    assert storage.has_transaction(first, between) is (False if keep_history else None)
    assert storage.changed_between(first, coming) == [OTHER]
    assert storage.changed_between(between, coming) is None


def test_oids_are_not_given_out_again_when_their_file_is_lost(new_storage, tmp_path):
    """C13: RelStorage does not sync it."""
    storage = alone(new_storage(), REAL)
    commit(storage, p64(1000))
    storage.close()
    for each in tmp_path.joinpath('data').glob('oids*'):
        each.unlink()
    storage = alone(new_storage(), REAL)
    assert storage.new_oid() > p64(1000)
    storage.close()


@pytest.mark.parametrize(('pragmas', 'expected'), [({}, 2), ({'synchronous': 0}, 0)])
def test_commits_wait_for_the_disk_unless_the_configuration_says_otherwise(pragmas, expected, new_storage):
    """D2: RelStorage has SQLite not wait for it."""
    raw = new_storage()
    connmanager = inside.adapter(raw).connmanager
    connmanager.pragmas.update(pragmas)
    storage = alone(raw, REAL)
    connection, cursor = connmanager.open()
    assert cursor.execute('PRAGMA synchronous').fetchone() == (expected,)
    connection.close()
    storage.close()


# ---- not alone ------------------------------------------------------------------------------------

def test_what_another_process_has_written_is_told(storage, new_storage, caplog):
    """X4, C1: all of it, in order, all with the first; a line says that this is not meant."""
    first = commit(storage, OID)
    other = new_storage()
    tids = [commit(other, OTHER), commit(other, p64(3))]
    assert storage.look() and not storage.look()
    assert storage.wrapper.told == [(tids[0], [OTHER, p64(3)]), (tids[1], [p64(3)])]
    assert 'another process has written to the database, which is for one server alone' in caplog.text
    last = commit(storage, OID, serial=first)
    assert last > tids[1] and not storage.look()


def test_what_another_process_writes_during_a_commit_is_a_conflict(storage, new_storage):
    """X4: nothing is compared with what nobody has been told."""
    begun = TransactionMetaData()
    storage.tpc_begin(begun)
    storage.store(OID, z64, b'data', '', begun)
    tid = commit(new_storage(), OTHER)
    with pytest.raises(ConflictError, match='another process has written'):
        storage.tpc_vote(begun)
    storage.tpc_abort(begun)
    assert storage.wrapper.told == [(tid, [OTHER])]
    assert commit(storage, OID) > tid


def test_another_database_in_its_place_is_another_one_for_all(storage, new_storage):
    """X4: ``zodbconvert --clear`` copies older tids, or later ones."""
    commit(storage, OID)
    other = new_storage()
    other.zap_all()
    commit(other, OID, tid=p64(7))
    assert storage.look()
    other.zap_all()
    commit(other, OID, tid=p64(9))
    assert storage.look()
    assert storage.wrapper.told == [None, None]


def test_clients_hear_of_another_process_and_go_on(new_storage, new_server, client, wire):
    """X4: within seconds, and at the latest when they commit."""
    server = new_server({'1': new_storage()})
    database = DB(client(server.addr, server_sync=True))  # else it may hear a moment later than `here`
    here = wire(server)
    here.commit(OID)
    direct = DB(new_storage())
    with direct.transaction() as connection:
        connection.root()['outside'] = 1
    name, (tid, oids) = notice(here)
    assert (name, oids) == ('invalidateTransaction', [z64])
    assert tid == direct.storage.lastTransaction()
    direct.close()
    manager = transaction.TransactionManager()
    for attempt in manager.attempts():
        with attempt:
            connection = database.open(manager)
            connection.root()['inside'] = connection.root()['outside']
    connection.close()
    database.close()


def test_a_pack_that_takes_the_last_transaction_is_no_other_process(new_storage):
    """Garbage was written last."""
    raw, looked = new_storage(), []
    storage = attended(raw)
    new_instance = raw.new_instance

    def new_packing_instance():
        instance = new_instance()
        pack = instance.pack
        instance.pack = lambda *arguments: (pack(*arguments), looked.append(storage.look()))
        return instance

    raw.new_instance = new_packing_instance
    commit(storage, z64)
    commit(storage, OID)
    storage.pack(time.time() + 10, lambda record, oids=None: [])
    assert looked == [False] and not storage.look() and storage.wrapper.told == []
    storage.close()


# ---- a process --------------------------------------------------------------------------------------

@pytest.fixture
def configuration(tmp_path):
    """The path of a server's configuration; the address stays the same."""
    address = format_address(reserved_port(test_a_killed_server_starts_again_and_a_second_one_does_not))
    path = tmp_path / 'zeo.conf'
    path.write_text(f'%import relstorage\n<zeo>\naddress {address}\n</zeo>\n<relstorage main>\n'
                    f'<sqlite3>\ndata-dir {tmp_path}/data\n</sqlite3>\n</relstorage>\n')
    return path


@pytest.mark.long
def test_a_killed_server_starts_again_and_a_second_one_does_not(configuration, client):
    """X4, C11, C22: one server has the database; its clients' caches stay."""
    with Runzeo('-C', configuration, command=MODULE, limit_s=LIMIT_S) as server:
        server.ready('main')
        database = DB(client(server.address, storage='main'))
        with database.transaction() as connection:
            connection.root()['number'] = 1
        with Runzeo('-C', configuration, '-a', '127.0.0.1:0') as second:
            code, _, said = second.result()
        assert code == 1
        assert f'cannot serve: process {server.pid} ' in said
        assert 'a RelStorage on SQLite is for one server: stop that process' in said
        server.send(signal.SIGKILL)
        server.result()
    with Runzeo('-C', configuration, limit_s=LIMIT_S) as server:
        server.ready('main')
        with fresh(database) as connection:
            assert connection.root()['number'] == 1
            connection.root()['number'] = 2
        assert 'is dropped' not in server.log
        database.close()
        assert server.stop() == 0
    assert os.path.exists(configuration.parent / 'data' / 'main.sqlite3')
