"""Another past: a client whose last transaction is none of the server's, against a scripted server."""
from __future__ import annotations

import pytest
from ZODB.utils import maxtid

from tests.client.fake_server import p64
from tests.client.test_order import Wrapper
from tests.support import inside
from zeo_clone.cache import ClientCache
from zeo_clone.client.storage import ClientStorage
from zeo_clone.client.verification import digest
from zeo_clone.Exceptions import ClientDisconnected

OID = p64(7)
OURS, THEIRS = 'ab' * 16, 'cd' * 16
ITERATION = ('ZODB.interfaces', 'IStorageIteration')


def info(fake, **facts):
    """The server is one that knows exact transactions, unless `facts` say that it is an older one."""
    facts.setdefault('extensions', ('has_transaction',))
    fake.answers['get_info'] = lambda connection: {'length': 0, 'size': 0, **facts}


def serve(fake, data, tid):
    fake.tid = tid
    fake.answers['loadBefore'] = lambda connection, oid, before: (data, tid, None)


@pytest.fixture
def path(fake, tmp_path):
    """A cache file as of transaction 5, of the database `OURS`."""
    path = str(tmp_path / 'main.zec')
    info(fake, database=OURS)
    serve(fake, b'lost', p64(5))
    storage = ClientStorage(fake.address, cache=path)
    storage.loadBefore(OID, maxtid)
    storage.close()
    serve(fake, b'true', p64(9))
    return path


def never(fake):
    info(fake, database=OURS)
    fake.answers['has_transaction'] = lambda connection, tid: False


def elsewhere(fake):
    info(fake, database=THEIRS)


def found_by_iteration(fake):
    info(fake, extensions=(), interfaces=(ITERATION,))
    fake.answers['getInvalidations'] = lambda connection, tid: (p64(9), [])
    fake.answers['iterator_start'] = lambda connection, start, stop: 3
    fake.answers['iterator_next'] = lambda connection, iid: (p64(6), ' ', b'', b'', {})


@pytest.mark.parametrize('proof', [never, elsewhere, found_by_iteration])
def test_a_cache_of_another_past_is_an_error_that_names_its_file(fake, opened, path, proof):
    """C22, K3: or, by option, it is dropped."""
    proof(fake)
    with pytest.raises(ClientDisconnected, match=f'never was in the database.*remove the cache file {path}'):
        ClientStorage(fake.address, cache=path, wait_timeout=2)
    storage = opened(cache=path, drop_newer_cache=True)
    assert storage.lastTransaction() == p64(9)
    assert storage.loadBefore(OID, maxtid) == (b'true', p64(9), None)


@pytest.mark.parametrize('proof', [never, elsewhere, found_by_iteration])
def test_it_is_not_read_while_no_server_is_found(fake, opened, path, proof):
    """C22: what never was is no answer, also of a storage that does not wait."""
    proof(fake)
    storage = opened(cache=path, wait=False, wait_timeout=0.2)
    db = Wrapper(storage)
    fake.wait(lambda: len(fake.registered) >= 2 and fake.client not in fake.connections)
    with pytest.raises(ClientDisconnected, match='another past'):
        storage.loadBefore(OID, maxtid)
    assert db.cache_dropped <= 1  # however many attempts there were


@pytest.mark.parametrize('answer, database', [
    (None, OURS), (True, THEIRS), (None, None), (ValueError('no'), OURS)])
def test_a_cache_that_is_not_known_any_more_is_dropped(fake, opened, path, answer, database):
    """C22: packed, or too long ago; nobody says that it never was.  A new identity alone is no proof."""
    def has_transaction(connection, tid):
        assert tid == p64(5)
        if isinstance(answer, Exception):
            raise answer
        return answer

    info(fake, **({} if database is None else {'database': database}))
    fake.answers['has_transaction'] = has_transaction
    storage = opened(cache=path)
    assert storage.loadBefore(OID, maxtid) == (b'true', p64(9), None)


def test_a_new_identity_is_taken_over_with_a_known_transaction(fake, opened, path):
    """C22: the file that holds the identity was lost, with a copy of the database's file alone."""
    info(fake, database=THEIRS)
    fake.answers['getInvalidations'] = lambda connection, tid: (p64(9), [p64(1)])
    storage = opened(cache=path)
    loads = fake.called('loadBefore')
    assert storage.loadBefore(OID, maxtid) == (b'lost', p64(5), None)
    assert fake.called('loadBefore') == loads
    assert storage.database == THEIRS
    storage.close()
    cache = ClientCache(path, 20 << 20)
    assert cache.database == digest(THEIRS)
    cache.close()


@pytest.mark.parametrize('first, kept', [
    ((p64(5), ' ', b'', b'', {}), True), ((p64(6), 'p', b'', b'', {}), False), (None, False),
    ('nonsense', False)])
def test_of_older_servers_the_transaction_is_looked_for(fake, opened, path, first, kept):
    """C22: they answer for any tid in their range; found is found, packed is not known, else never."""
    info(fake, extensions=(), interfaces=(ITERATION,))
    fake.answers['getInvalidations'] = lambda connection, tid: (p64(9), [p64(1)])
    fake.answers['iterator_start'] = lambda connection, start, stop: 3
    fake.answers['iterator_next'] = lambda connection, iid: first
    storage = opened(cache=path)
    assert ('iterator_start', (p64(5), None)) in fake.calls
    storage.ping()
    assert ('iterator_gc', ([3],)) in fake.calls
    assert storage.loadBefore(OID, maxtid)[0] == (b'lost' if kept else b'true')


def test_an_older_server_that_cannot_iterate_is_believed(fake, opened, path):
    info(fake, extensions=(), interfaces=())
    fake.answers['getInvalidations'] = lambda connection, tid: (p64(9), [p64(1)])
    assert opened(cache=path).loadBefore(OID, maxtid)[0] == b'lost'
    assert fake.called('iterator_start') == 0


def lost_future(fake, connected, **options):
    """A live client at 5, and a server that goes on with another past."""
    info(fake, database=OURS)
    serve(fake, b'lost', p64(5))
    storage = connected(wait_timeout=0.5, **options)
    db = Wrapper(storage)
    storage.loadBefore(OID, maxtid)
    never(fake)
    serve(fake, b'true', p64(9))
    fake.client.cut()
    return storage, db


def test_a_live_client_does_not_read_the_lost_future(fake, connected):
    """C22, K3: it says so instead, and goes on when it finds its own past again."""
    storage, db = lost_future(fake, connected)
    fake.wait(lambda: fake.called('has_transaction') >= 2)
    with pytest.raises(ClientDisconnected, match='restart this client'):
        storage.ping()
    with pytest.raises(ClientDisconnected, match='another past'):
        storage.loadBefore(OID, maxtid)
    assert storage.lastTransaction() == p64(5)
    assert db.cache_dropped == 1
    fake.tid = p64(5)
    inside.manager(storage).link(20)
    assert storage.loadBefore(OID, maxtid)[0] == b'lost'


def test_a_live_client_drops_the_lost_future_by_option(fake, connected):
    """C22, C23, K3: open connections look again, and the last tid is the server's."""
    storage, db = lost_future(fake, connected, drop_newer_cache=True)
    fake.wait(lambda: len(fake.registered) == 2)
    storage.ping()
    assert storage.lastTransaction() == p64(9)
    assert db.cache_dropped == 2 and db.told == [(p64(9), [])]
    assert storage.loadBefore(OID, maxtid) == (b'true', p64(9), None)


@pytest.mark.parametrize('database, is_read', [(OURS, False), (THEIRS, True), (None, True)])
def test_a_server_that_is_behind_may_be_a_replica(fake, connected, database, is_read):
    """C22, K7: only of the same database it is known that it has lost transactions."""
    info(fake, database=OURS)
    serve(fake, b'seen', p64(5))
    storage = connected(wait_timeout=0.2)
    storage.loadBefore(OID, maxtid)
    info(fake, **({} if database is None else {'database': database}))
    fake.tid = p64(3)
    infos = fake.called('get_info')
    fake.client.cut()
    fake.wait(lambda: fake.called('get_info') >= infos + 2)
    if is_read:
        assert storage.loadBefore(OID, maxtid) == (b'seen', p64(5), None)
    else:
        with pytest.raises(ClientDisconnected, match='is newer'):
            storage.loadBefore(OID, maxtid)
    with pytest.raises(ClientDisconnected, match='is newer'):
        storage.ping()


def test_a_reconnect_asks_as_often_as_before(fake, opened, path):
    """K9: a server of ours is asked nothing more."""
    info(fake, database=OURS)
    fake.answers['getInvalidations'] = lambda connection, tid: (p64(9), [])
    fake.calls.clear()
    opened(cache=path)
    assert [name for name, _ in fake.calls] == ['register', 'get_info', 'getInvalidations']


def test_what_is_changed_during_verification_is_not_lost(fake, opened, path):
    """C4: invalidations that come between the questions are kept and applied."""
    info(fake, database=OURS)

    def changes(connection, tid):
        connection.notice('invalidateTransaction', p64(10), [OID])
        return p64(9), []

    fake.answers['getInvalidations'] = changes
    storage = opened(cache=path)
    assert storage.lastTransaction() == p64(10)
    fake.answers['loadBefore'] = lambda connection, oid, before: (b'new', p64(10), None)
    assert storage.loadBefore(OID, maxtid) == (b'new', p64(10), None)


def test_a_tid_that_was_told_and_never_finished_is_no_other_past(fake, opened, tmp_path):
    """C22: a real ZEO server whose FileStorage was killed tells such a tid; nothing in the cache is of it."""
    found_by_iteration(fake)
    serve(fake, b'old', p64(3))
    fake.tid = p64(5)
    storage = opened()
    storage.loadBefore(OID, maxtid)
    serve(fake, b'new', p64(9))
    fake.client.cut()
    fake.wait(lambda: len(fake.registered) == 2)
    storage.ping()
    assert storage.lastTransaction() == p64(9)
    assert storage.loadBefore(OID, maxtid) == (b'new', p64(9), None)
