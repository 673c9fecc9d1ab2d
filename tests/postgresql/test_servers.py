"""Several servers in front of one RelStorage on a real PostgreSQL (X1 to X3)."""
from __future__ import annotations

import pickle
import re
import threading
import time

import pytest
import transaction
from BTrees.Length import Length
from ZODB import DB
from ZODB.blob import Blob
from ZODB.Connection import TransactionMetaData
from ZODB.POSException import ConflictError, POSKeyError, ReadConflictError
from ZODB.utils import maxtid, p64, u64, z64

from tests.postgresql.counting import PATIENCE_S as LIMIT_S
from tests.server.test_server import Wire
from tests.support import inside
from tests.support.cleaning import Cleaning, store_blob
from zeo_clone.Exceptions import ClientDisconnected
from zeo_clone.loop.runtime import REAL
from zeo_clone.monitor.exposition import Exposition
from zeo_clone.monitor.reporter import Report
from zeo_clone.server.backend.database.relstorage import Database, Statements
from zeo_clone.troubles import find

pytestmark = [pytest.mark.long, pytest.mark.once]

OID, OTHER = p64(1), p64(2)


@pytest.fixture
def databases(servers, client):
    """A ZODB.DB at each server; a transaction begins with what anybody has committed."""
    opened = [DB(client(server, server_sync=True)) for server in servers]
    yield opened
    for database in opened:
        database.close()


def store(wire, number, *oids, serial=z64, data=b'data'):
    """A transaction up to its vote, of which the reply is returned."""
    wire.oneway('tpc_begin', number, b'', b'', {}, None, ' ')
    for oid in oids:
        wire.oneway('storea', oid, serial, data, number)
    return wire.call('vote', number)


def is_unknown(wire, oid):
    """Is there no such object?"""
    with pytest.raises(AssertionError, match='POSKeyError'):
        wire.call('loadBefore', oid, maxtid)
    return True


def notice(wire):
    """The next one-way call that is not about sizes."""
    while True:
        message_id, flag, name, args = pickle.loads(wire.receive())
        if (message_id, flag) == (0, 1) and name != 'info':
            return name, args


def fresh(database):
    """A transaction that begins with all that anybody has committed."""
    database.storage.sync()
    return database.transaction()


def add_to(database, name, count):
    """Commit `count` changes of the Length `name`; how often that was tried again."""
    again = 0
    for _ in range(count):
        while True:
            manager = transaction.TransactionManager()
            connection = database.open(manager)
            try:
                connection.root()[name].change(1)
                manager.commit()
                break
            except ConflictError:
                manager.abort()
                again += 1
            finally:
                connection.close()
    return again


# ---- one order for all --------------------------------------------------------------------------

def test_a_commit_at_one_server_is_told_at_the_other(servers, wire):
    """X1."""
    here, there = map(wire, servers)
    tid = here.commit(OID)
    assert notice(there) == ('invalidateTransaction', (tid, [OID]))
    assert there.call('loadBefore', OID, maxtid) == (b'data', tid, None)
    assert there.call('lastTransaction') == here.call('lastTransaction') == tid
    later = there.commit(OID, serial=tid)
    assert notice(here) == ('invalidateTransaction', (later, [OID]))
    assert there.call('getInvalidations', tid) == (later, [OID])


def test_all_hear_all_transactions_once_in_the_order_of_their_tids(servers, wire):
    """X1: whoever commits where."""
    listeners = [wire(server) for server in servers]
    tids = []

    def work(server, number):
        committer = wire(server)
        tids.extend(committer.commit(p64(100 * number + step)) for step in range(15))

    threads = [threading.Thread(target=work, args=(server, number))
               for number, server in enumerate((*servers, *servers), 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tids) == 60
    for listener in listeners:
        assert [notice(listener)[1][0] for _ in tids] == sorted(tids)


def test_conflicts_are_resolved_across_servers_by_the_guard(databases):
    """S9, X1: nothing that was added is lost."""
    first, second = databases
    with first.transaction() as connection:
        connection.root()['sum'] = Length()
    second.storage.sync()
    threads = [threading.Thread(target=add_to, args=(database, 'sum', 20)) for database in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with fresh(second) as connection:
        assert connection.root()['sum']() == 40
    assert sum(server.storage.server_status()['conflicts_resolved'] for server in databases)


def test_a_plain_conflict_is_one_and_the_next_commit_goes_through(servers, wire):
    """L3, L4."""
    here, there = map(wire, servers)
    tid = here.commit(OID)
    assert notice(there)[1] == (tid, [OID])
    later = there.commit(OID, serial=tid)
    with pytest.raises(AssertionError, match='ConflictError'):
        store(here, 8, OTHER, OID, serial=tid)
    here.call('tpc_abort', 8)
    assert here.commit(OID, serial=later) > later
    assert is_unknown(here, OTHER), 'nothing of what was refused'


def test_a_read_that_was_relied_on_is_checked(servers, wire):
    """A serial that is not current any more is a conflict at the vote."""
    here, there = map(wire, servers)
    tid = here.commit(OID)
    assert notice(there)[1] == (tid, [OID])
    assert there.commit(OID, serial=tid)
    here.oneway('tpc_begin', 8, b'', b'', {}, None, ' ')
    here.oneway('checkCurrentSerialInTransaction', OID, tid, 8)
    here.oneway('storea', OTHER, z64, b'data', 8)
    with pytest.raises(AssertionError, match='ReadConflictError'):
        here.call('vote', 8)
    here.call('tpc_abort', 8)
    assert here.commit(p64(3))
    assert is_unknown(here, OTHER), 'nothing of what was refused'


def test_what_was_given_up_after_its_vote_is_not_committed_with_the_next(servers, wire):
    """C2, D1."""
    here = wire(servers[0])
    store(here, 8, OTHER)
    here.call('tpc_abort', 8)
    assert here.commit(OID)
    assert is_unknown(here, OTHER)


def test_a_direct_client_of_the_database_is_heard_within_the_interval(new_database_server, new_storage, wire):
    """X1: nobody notifies of what RelStorage itself commits."""
    server = new_database_server(poll_interval_s=0.05)
    here, direct = wire(server), new_storage()
    transaction_ = TransactionMetaData()
    direct.tpc_begin(transaction_)
    direct.store(OID, z64, b'direct', '', transaction_)
    direct.tpc_vote(transaction_)
    tid = direct.tpc_finish(transaction_)
    assert notice(here) == ('invalidateTransaction', (tid, [OID]))
    assert here.call('loadBefore', OID, maxtid) == (b'direct', tid, None)


# ---- reading ------------------------------------------------------------------------------------

def test_older_revisions_are_there_as_long_as_the_database_has_them(servers, wire, keep_history):
    here, there = map(wire, servers)
    first = here.commit(OID)
    second = here.commit(OID, serial=first)
    assert there.call('getTid', OID) == second
    assert there.call('loadBefore', OID, second) == ((b'data', first, second) if keep_history else None)
    assert there.call('loadBefore', OID, first) is None
    assert there.call('loadSerial', OID, second) == b'data'
    for method in ('loadBefore', 'loadSerial'):
        with pytest.raises(AssertionError, match='POSKeyError'):
            there.call(method, p64(77), maxtid)


def test_many_objects_come_in_one_answer(databases, servers):
    """Prefetching goes through the same door."""
    with databases[0].transaction() as connection:
        connection.root().update({number: Length(number) for number in range(300)})
    storage = databases[1].storage
    oids = [p64(number) for number in range(1, 301)]
    storage.prefetch(oids, storage.lastTransaction() + b'')
    with fresh(databases[1]) as connection:
        assert sum(connection.root()[number]() for number in range(300)) == sum(range(300))


def test_a_client_that_was_away_for_long_is_told_what_has_changed(new_database_server, wire):
    """X1: of any age, without invalidation-age."""
    server = new_database_server(invalidation_queue_size=2)
    here = wire(server)
    first = here.commit(OID)
    for number in range(5):
        last = here.commit(p64(10 + number))
    tid, oids = wire(server).call('getInvalidations', first)
    assert tid == last and set(oids) == {p64(10 + number) for number in range(5)}
    assert here.call('getInvalidations', p64(u64(first) + 1)) is None  # no transaction of this database (C22)


def test_a_server_that_starts_remembers_what_was_last_and_no_more(new_database_server, wire, query):
    """C22: and nothing of a database of which no server has written yet."""
    here = wire(new_database_server())
    first, second = here.commit(OID), here.commit(OTHER)
    assert wire(new_database_server()).call('getInvalidations', first) == (second, [OTHER])
    query('DELETE FROM zeo_clone_log')
    history = new_database_server(invalidation_queue_size=1).served['1'].audience.history
    assert history.last_tid == second and not history.knows(first)


def test_what_nobody_asks_for_any_more_is_forgotten(new_storage, query):
    """C11, C22: outcomes and the log keep 30 days; a tid may be old and its copy new; the last one stays."""
    database = Database(new_storage(), REAL)
    for name, days in ((b'old', 31), (b'new', 29)):
        query("INSERT INTO zeo_clone_outcome VALUES (%s, 1, 5, 0, now() - %s * INTERVAL '1 day')", name, days)
    for tid, days in ((5, 31), (6, 0), (7, 31)):
        query("INSERT INTO zeo_clone_log VALUES (%s, NULL, now() - %s * INTERVAL '1 day')", tid, days)
    database.prune()
    assert [bytes(token) for token, in query('SELECT token FROM zeo_clone_outcome')] == [b'new']
    assert query('SELECT tid FROM zeo_clone_log ORDER BY 1') == [(6,), (7,)]


def test_a_large_transaction_is_not_read_again_with_each_question(servers, wire, query, keep_history):
    """D1: what was told stays told; the loop would have a million rows to do with each second."""
    here, there = map(wire, servers)
    store(here, 7, *map(p64, range(1, 51)))
    tid = here.call('tpc_finish', 7)
    assert len(notice(there)[1][1]) == 50
    since = Statements(keep_history).since % {'tid': u64(tid), 'limit': 1000}
    assert 1 <= len(query(since)) <= 2
    there.commit(OID, serial=tid)
    assert len(query(since)) <= 4


def test_new_oids_are_given_out_once(servers, wire):
    """C13."""
    given = [oid for server in servers for _ in range(3) for oid in wire(server).call('new_oids', 100)]
    assert len(set(given)) == len(given) == 600


def test_objects_are_walked_by_oid(servers, wire):
    here, there = map(wire, servers)
    here.commit(OID, OTHER)
    assert there.call('record_iternext', None)[::3] == (OID, OTHER)
    assert there.call('record_iternext', OTHER)[::3] == (OTHER, None)


def test_a_question_that_the_database_refuses_costs_nobody_else_anything(servers, wire, query):
    here, _ = map(wire, servers)
    tid = here.commit(OID)
    query('ALTER SEQUENCE zoid_seq RENAME TO zoid_seq_of_others')
    with pytest.raises(AssertionError, match='the database: .*zoid_seq'):
        here.call('new_oids', 100)
    assert here.call('loadBefore', OID, maxtid) == (b'data', tid, None)
    query('ALTER SEQUENCE zoid_seq_of_others RENAME TO zoid_seq')
    assert len(here.call('new_oids', 100)) == 100


# ---- logs, undo, packs, blobs, garbage ------------------------------------------------------------

def test_history_iteration_and_undo(databases, keep_history):
    first, second = databases
    for number in range(3):
        with first.transaction(note=f'number {number}') as connection:
            connection.root()['number'] = number
    with fresh(second) as connection:
        assert connection.root()['number'] == 2
    assert len(second.storage.history(z64, size=3)) == (3 if keep_history else 1)
    tids = [entry.tid for entry in second.storage.iterator()]
    assert tids[-1] == first.storage.lastTransaction() and tids == sorted(tids)
    assert second.supportsUndo() is keep_history
    if keep_history:
        entry = second.undoLog(0, 1)[0]
        assert entry['description'] == 'number 2'
        second.undo(entry['id'])
        transaction.commit()
        with fresh(first) as connection:
            assert connection.root()['number'] == 1


@pytest.mark.parametrize('method', ['iterator_batch', 'iterator_record_start'])
def test_an_iteration_of_which_the_connection_is_lost_says_so_and_does_not_end(servers, wire, query, method):
    """X3: as loads do; what could not be read would be missing."""
    here = wire(servers[0])
    tids = [here.commit(OID), here.commit(OTHER)]
    iterator = here.call('iterator_start', None, None)
    assert here.call('iterator_next', iterator)[0] == tids[0]
    query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'RS: Load' "
          'AND datname = current_database()')
    for _ in range(2):
        arguments = (iterator, 1 << 20) if method == 'iterator_batch' else (iterator, tids[0])
        with pytest.raises(AssertionError, match='ReadConflictError.*the database of the server is away'):
            here.call(method, *arguments)
    assert here.call('iterator_start', tids[1], None)


def test_a_pack_removes_garbage_and_nothing_else(databases):
    """C15, L5."""
    first, second = databases
    with first.transaction() as connection:
        connection.root()['kept'], connection.root()['dropped'] = Length(1), Length(2)
        connection.add(connection.root()['dropped'])
        oid = connection.root()['dropped']._p_oid
    with first.transaction() as connection:
        del connection.root()['dropped']
    second.storage.pack(time.time() + 10)
    with fresh(second) as connection:
        assert connection.root()['kept']() == 1
    with pytest.raises(POSKeyError):
        second.storage.loadBefore(oid, maxtid)


def test_what_a_pack_has_removed_before_it_was_told_is_told_with_the_first(servers, wire, new_storage, query):
    """C1, C3, X1: of a transaction that a server has not told yet a part may be gone."""
    here, there = map(wire, servers)
    known = here.commit(p64(3))
    assert notice(there)[1][0] == known
    held, free = threading.Event(), threading.Event()
    inside.loop(servers[1]).door(lambda: (held.set(), free.wait(LIMIT_S)))
    assert held.wait(LIMIT_S)
    try:
        first = here.commit(OID, OTHER)
        second = here.commit(OID, serial=first)
        new_storage(pack_gc=False).pack(time.time() + 10, lambda record: [])
        assert query('SELECT zoid FROM object_state WHERE tid = %s', u64(first)) == [(u64(OTHER),)]
    finally:
        free.set()
    tid, oids = notice(there)[1]
    assert (tid, sorted(oids)) == (first, [OID, OTHER])
    assert notice(there)[1] == (second, [OID])


def test_deleted_objects_are_told_everywhere(servers, wire, new_database_server):
    """C3: external garbage collection; also by a server that is started later."""
    here, there = map(wire, servers)
    tid = here.commit(OID)
    assert notice(there)[1] == (tid, [OID])
    here.oneway('tpc_begin', 9, b'', b'', {}, None, ' ')
    here.oneway('deleteObject', OID, tid, 9)
    here.call('vote', 9)
    last = here.call('tpc_finish', 9)
    assert notice(there)[1] == (last, [OID])
    with pytest.raises(AssertionError, match='POSKeyError'):
        there.call('loadBefore', OID, maxtid)
    here.commit(OTHER)
    assert sorted(wire(new_database_server()).call('getInvalidations', tid)[1]) == [OID, OTHER]


def test_transactions_are_copied_with_their_tids(servers, wire, keep_history):
    """C25: a copy through a server; a tid of the past is refused."""
    here, there = map(wire, servers)
    last = here.commit(OTHER)
    assert notice(there)[1] == (last, [OTHER])
    tid = p64(u64(last) + 1000)
    here.oneway('tpc_begin', 9, b'', b'copy', {}, tid, ' ')
    here.oneway('restorea', OID, tid, b'restored', None, 9)
    here.call('vote', 9)
    assert here.call('tpc_finish', 9) == tid
    assert notice(there)[1] == (tid, [OID])
    assert there.call('loadBefore', OID, maxtid) == (b'restored', tid, None)
    here.oneway('tpc_begin', 10, b'', b'copy', {}, last, ' ')
    with pytest.raises(AssertionError, match='cannot have the tid'):
        here.call('vote', 10)


def test_blobs_go_through_the_database(new_database_server, client, tmp_path):
    """B1, X1."""
    databases = []
    for place in 'ab':
        blobs = {'blob_dir': str(tmp_path / f'server-{place}'), 'shared_blob_dir': False}
        server = new_database_server(blobs)
        databases.append(DB(client(server, server_sync=True, blob_dir=str(tmp_path / f'client-{place}'))))
    try:
        with databases[0].transaction() as connection:
            connection.root()['blob'] = Blob(b'content' * 30_000)
        with fresh(databases[1]) as connection, connection.root()['blob'].open() as file:
            assert file.read() == b'content' * 30_000
    finally:
        for database in databases:
            database.close()


def test_a_blob_is_read_while_relstorage_clears_its_cache_up(new_database_server, client, tmp_path):
    """B6: it goes between its name and its opening, and is not taken for one that does not exist."""
    blobs = tmp_path / 'server'
    server = new_database_server({'blob_dir': str(blobs), 'shared_blob_dir': False}, runtime=Cleaning(blobs))
    stored = store_blob(client(server, blob_dir=str(tmp_path / 'writer')), tmp_path)
    with client(server, blob_dir=str(tmp_path / 'reader')).openCommittedBlobFile(OID, stored) as file:
        assert file.read() == b'content'


# ---- exactly once ---------------------------------------------------------------------------------

def test_what_another_server_has_called_not_committed_never_is(servers, wire):
    """X2, C11: the client asks elsewhere, then the first server goes on."""
    here, there = (wire(server, b'a client' * 2) for server in servers)
    store(here, 5, OID)
    assert there.call('commit_outcome', 5) == ('not committed', None)
    with pytest.raises(AssertionError, match='asked another server'):
        here.call('tpc_finish', 5)
    with pytest.raises(AssertionError, match='POSKeyError'):
        there.call('loadBefore', OID, maxtid)
    assert store(here, 6, OID) == []
    assert here.call('tpc_finish', 6) == there.call('getTid', OID)


def test_what_was_committed_is_known_at_every_server(servers, wire):
    """X2, C11."""
    here, there = (wire(server, b'a client' * 2) for server in servers)
    store(here, 5, OID)
    tid = here.call('tpc_finish', 5)
    assert there.call('commit_outcome', 5) == here.call('commit_outcome', 5) == ('committed', tid)
    assert there.call('commit_outcome', 6) == ('not committed', None)
    assert there.call('commit_outcome', 4) == ('unknown', None)
    info = [one.call('get_info') for one in (here, there)]
    assert info[0]['instance'] == info[1]['instance'] == info[0]['database']


def test_an_outcome_is_replaced_by_no_other_transaction(servers, wire, query):
    """C24: what a server looks up when a COMMIT has failed, of clients that do not say who they are."""
    first, second = wire(servers[0]), wire(servers[0])
    for one, oid in ((first, OID), (second, OTHER)):
        store(one, 7, oid)
    tids = [one.call('tpc_finish', 7) for one in (second, first)]
    assert sorted(query('SELECT tid FROM zeo_clone_outcome')) == [(u64(tid),) for tid in tids]


def test_a_transaction_that_its_client_has_given_up_does_not_replace_the_outcome_of_the_next(servers, wire):
    """C11: no server could be asked for it, and then it comes to its end after all."""
    token = b'a client' * 2
    here, there = (wire(server, token) for server in servers)
    store(here, 7, OID)
    store(there, 8, OTHER)
    tid = there.call('tpc_finish', 8)
    with pytest.raises(AssertionError, match='StorageTransactionError'):
        here.call('tpc_finish', 7)
    assert here.call('commit_outcome', 8) == ('committed', tid)


def test_a_connection_that_is_lost_after_the_vote_costs_that_transaction_only(servers, wire, query):
    """X3, C24: nothing was committed, and it can be tried again."""
    here, there = map(wire, servers)
    store(here, 5, OID)
    query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction' "
          'AND datname = current_database()')
    with pytest.raises(AssertionError, match='ReadConflictError'):
        here.call('tpc_finish', 5)
    with pytest.raises(AssertionError, match='POSKeyError'):
        there.call('loadBefore', OID, maxtid)
    tid = here.commit(OID)
    assert there.call('loadBefore', OID, maxtid) == (b'data', tid, None)


def test_a_lost_reply_to_commit_is_looked_up(servers, wire, monkeypatch):
    """X2, X3, C24: COMMIT was carried out, but the connection broke before it said so."""
    from relstorage.storage import RelStorage
    here, there = map(wire, servers)
    finish = RelStorage.tpc_finish

    def commit_and_fail(self, transaction_):
        finish(self, transaction_)
        raise Exception('Failed to close one or more resources: connection lost')

    monkeypatch.setattr(RelStorage, 'tpc_finish', commit_and_fail)
    tid = here.commit(OID)
    assert there.call('loadBefore', OID, maxtid) == (b'data', tid, None)


def test_a_commit_that_the_database_refuses_is_told_in_its_words(servers, wire, monkeypatch):
    """X3, C24: a full queue of notifications, say."""
    from relstorage.storage import RelStorage
    here = wire(servers[0])

    def refuse(self, _):
        raise Exception('too many notifications in the NOTIFY queue')

    with monkeypatch.context() as patched:
        patched.setattr(RelStorage, 'tpc_finish', refuse)
        with pytest.raises(AssertionError, match='ReadConflictError.*has not done the COMMIT, and nothing'):
            here.commit(OID)
    here.call('tpc_abort', 7)
    assert here.commit(OID)


FAILING = """CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'so it is' USING ERRCODE = TG_ARGV[0]; END $$"""
FAILS = "CREATE TRIGGER fails BEFORE INSERT OR UPDATE ON {} FOR EACH ROW EXECUTE FUNCTION fail('{}')"


def test_what_a_database_cannot_do_is_not_told_as_if_it_were_away(new_database_server, wire, client, query):
    """X3, L7, C24: with its reason, by the server as something to be tried again only where that helps.
    Nothing is committed, and all goes on when there is room."""
    server = new_database_server(database_patience_s=0.2)
    here = wire(server, b'a client' * 2)
    database = DB(client(server))
    first = here.commit(OTHER)
    query(FAILING)
    for code, told in [('53100', 'StorageError.*the disk of the database is full: so it is'),
                       ('40P01', 'ReadConflictError.*the database has ended this transaction in favour of')]:
        for table in ('object_state', 'zeo_clone_outcome'):  # both in tpc_finish
            query(FAILS.format(table, code))
            with pytest.raises(AssertionError, match=told):
                here.commit(OID)
            here.call('tpc_abort', 7)
            query(f'DROP TRIGGER fails ON {table}')
    for table in ('object_state', 'zeo_clone_outcome'):
        query(FAILS.format(table, '53100'))
    told = 'there was an error while .* nothing was committed.*the disk of the database is full'
    with pytest.raises(ClientDisconnected, match=told), database.transaction() as connection:
        connection.root()['new'] = 1
    for table in ('object_state', 'zeo_clone_outcome'):
        query(f'DROP TRIGGER fails ON {table}')
    with database.transaction() as connection:
        assert 'new' not in connection.root()
    database.close()
    with pytest.raises(AssertionError, match='POSKeyError'):
        here.call('loadBefore', OID, maxtid)
    query(FAILS.format('zeo_clone_outcome', '53100'))
    with pytest.raises(AssertionError, match='ReadConflictError.*disk of the database is full; ask again'):
        here.call('commit_outcome', 9)
    query('DROP TRIGGER fails ON zeo_clone_outcome')
    store(here, 10, OID)
    assert here.call('tpc_finish', 10) > first


def test_a_server_without_a_short_limit_on_commits_and_one_that_cannot_ask_for_outcomes(
        new_database_server, wire, query):
    """L1, C11: PostgreSQL has no time of a month; and no error is the driver's."""
    here = wire(new_database_server(transaction_timeout=30 * 86_400.0), b'a client' * 2)
    assert here.commit(OID)
    query('ALTER TABLE zeo_clone_outcome RENAME TO elsewhere')
    with pytest.raises(AssertionError, match='StorageError.*zeo_clone_outcome'):
        here.call('commit_outcome', 7)


def test_a_transaction_that_waits_for_its_client_keeps_nobody_else_waiting(new_database_server, wire):
    """L1, X2: as many as there are connections for commits are there at once, the next one waits."""
    server = new_database_server(commit_connections=2)
    slow, other, third = (wire(server) for _ in range(3))
    store(slow, 5, OID)
    first = other.commit(OTHER)
    store(other, 8, OTHER, serial=first)
    for step in (('tpc_begin', 9, b'', b'', {}, None, ' '), ('storea', OID, z64, b'other', 9)):
        third.oneway(*step)
    third.send(pickle.dumps((2, False, 'vote', (9,)), 3))
    second, last = slow.call('tpc_finish', 5), other.call('tpc_finish', 8)
    assert first < second < last
    while (answer := pickle.loads(third.receive()))[0] != 2:
        pass
    assert answer[1] == 2 and 'ConflictError' in str(answer)
    third.call('tpc_abort', 9)
    for number in range(3):
        assert third.commit(p64(10 + number)) > last
    assert server.server_status('1')['lock_holder'] is None


def test_a_thread_that_comes_back_late_leaves_the_next_commit_alone(new_database_server, wire, monkeypatch):
    """C11: the commit was told before; the connection belongs to somebody else since."""
    from relstorage.storage import RelStorage
    finish, late, first = RelStorage.tpc_finish, threading.Event(), []

    def commit_and_come_late(self, transaction_):
        finish(self, transaction_)
        if not first:
            first.append(self)
            late.wait(LIMIT_S)

    monkeypatch.setattr(RelStorage, 'tpc_finish', commit_and_come_late)
    server = new_database_server()
    here, second, third = (wire(server) for _ in range(3))
    try:
        here.commit(OID)
        for step in (('tpc_begin', 9, b'', b'', {}, None, ' '), ('storea', OTHER, z64, b'other', 9)):
            second.oneway(*step)
        second.send(pickle.dumps((2, False, 'vote', (9,)), 3))
        second.call('ping')  # an answer of its own kind: the vote has been begun
    finally:
        late.set()
    while pickle.loads(second.receive())[0] != 2:
        pass
    tids = [third.commit(p64(3)), second.call('tpc_finish', 9)]
    assert tids == sorted(tids)


# ---- the database goes and comes --------------------------------------------------------------------

def test_all_goes_on_after_the_database_was_stopped_at_once(servers, wire, cluster):
    """X3: loads wait, and commits that were acknowledged are there."""
    here, there = map(wire, servers)
    tid = here.commit(OID)
    assert notice(there)[1] == (tid, [OID])
    cluster.crash()
    try:
        waiting = threading.Thread(target=lambda: found.append(there.call('loadBefore', OID, maxtid)))
        found = []
        waiting.start()
    finally:
        cluster.start()
    waiting.join()
    assert found == [(b'data', tid, None)]
    while True:  # what was under way may have to be tried again
        try:
            later = here.commit(OTHER)
            break
        except AssertionError as error:
            assert 'ReadConflictError' in str(error)
            here.call('tpc_abort', 7)
    assert notice(there)[1] == (later, [OTHER])
    assert there.call('loadBefore', OTHER, maxtid) == (b'data', later, None)


def test_the_status_says_that_the_database_is_away(new_database_server, wire, cluster):
    """X3: and loads and outcomes fail with an error that can be tried again."""
    server = new_database_server(database_patience_s=0.5)
    here = wire(server, b'a client' * 2)
    here.commit(OID)
    cluster.crash()
    try:
        with pytest.raises(AssertionError, match='ReadConflictError'):
            here.call('loadBefore', OTHER, maxtid)
        with pytest.raises(AssertionError, match='ReadConflictError.*ask again, or another server'):
            here.call('commit_outcome', 7)
        trouble, = (one for one in find(server.ruok()) if one.kind == 'failed')
        assert re.search('^its database has been away for .*: .', trouble.text)
        assert 'see whether PostgreSQL runs' in trouble.advice and 'disk' not in trouble.advice
    finally:
        cluster.start()
    while True:
        try:
            here.call('ping')
            break
        except AssertionError as error:
            assert 'the database of the server is away' in str(error)
    assert server.server_status('1')['failed'] is None


def test_a_database_that_went_back_sends_all_away(servers, wire, query, keep_history):
    """X3, C22: a fail-over to a server that lagged behind, a restored backup, another database."""
    here, there = map(wire, servers)
    first = here.commit(OID)
    second = here.commit(OTHER)
    assert [notice(there)[1][0] for _ in range(2)] == [first, second]
    query("UPDATE zeo_clone_identity SET identity = 'another'")
    tables = ('current_object', 'object_state', 'transaction') if keep_history else ('object_state',)
    for table in (*tables, 'zeo_clone_log'):
        query(f'DELETE FROM {table} WHERE tid = %s', u64(second))
    with pytest.raises((EOFError, ConnectionResetError)):
        while True:
            there.call('ping')
    back = wire(servers[1])
    assert back.call('lastTransaction') == first
    info = back.call('get_info')
    assert (info['database'], info['instance']) == ('another', 'another')


# ---- what is refused ------------------------------------------------------------------------------

def test_keys_of_databases_are_refused_for_others(new_server):
    with pytest.raises(ValueError, match='poll-interval: for databases only'):
        new_server(poll_interval_s=5.0)


def test_what_is_not_served_is_refused_in_one_line(new_storage, new_server, tmp_path):
    """X4."""
    with pytest.raises(ValueError, match='resolved by the server: remove client-conflict-resolution'):
        new_server({'1': new_storage()}, client_conflict_resolution=True)
    with pytest.raises(ValueError, match='set shared-blob-dir false'):
        new_server({'1': new_storage(blob_dir=str(tmp_path), shared_blob_dir=True)})


def test_a_client_of_zeo_4_is_refused(servers):
    with Wire(servers[0].addr) as client:
        assert client.receive() == b'Z5'
        client.send(b'Z4')
        assert 'clients of ZEO 4' in str(client.call('register', '1', False))


def test_errors_can_be_tried_again():
    """What clients are told while the database is away."""
    from zeo_clone.server.backend.database.reader import DatabaseAway
    assert issubclass(DatabaseAway, ReadConflictError)
    assert not issubclass(DatabaseAway, ClientDisconnected)


def test_metrics_and_measurements_know_databases(new_database_server, wire):
    """What comes from the database later is measured when it comes."""
    server = new_database_server(measure=True)
    here = wire(server)
    here.commit(OID)
    assert here.call('loadBefore', OID, maxtid)[0] == here.call('loadBefore', OID, maxtid)[0] == b'data'
    status = server.server_status('1')
    assert sum(status['latency']['load']['counts']) == 2
    assert status['database']['cache_hits'] == 1 and status['database']['cache_objects'] == 1
    text = Exposition().expose(Report(server.ruok(), 0.0, 0.0), '')[1].decode()
    assert 'zeo_database_cache_hits_total{storage="1"} 1.0' in text
    assert 'zeo_database_away_seconds{storage="1"} 0.0' in text
