"""Another past, with real servers and files: a backup that was restored and written to, another database."""
from __future__ import annotations

import os
import shutil

import pytest
import transaction
import ZODB
from ZODB.utils import maxtid, p64, z64

from tests.storage.helpers import commit, store
from tests.support import inside
from tests.support.server_process import PeerServer, ServerProcess
from zeo_clone.Exceptions import ClientDisconnected

ONE, TWO = p64(1), p64(2)
SERVERS = [ServerProcess, PeerServer]


@pytest.fixture(params=SERVERS, ids=['ours', 'zeo'])
def process(request, tmp_path):
    with request.param([{'kind': 'file', 'path': str(tmp_path / 'Data.fs')}]) as process:
        yield process


def put(path, backup):
    """`backup` takes the place of the FileStorage at `path`."""
    for name in ('.index', '.lock', '.tmp'):
        if os.path.exists(f'{path}{name}'):
            os.remove(f'{path}{name}')
    shutil.copy(backup, path)


class Past:
    """A server with a backup of ONE and TWO, and a client that has seen a later ONE."""

    def __init__(self, process, client, tmp_path, **options):
        self.process = process
        self.connect = client
        self.path, self.backup = str(tmp_path / 'Data.fs'), str(tmp_path / 'backup')
        self.old = dict.fromkeys((ONE, TWO))
        writer = client(process.address)
        for oid in self.old:
            self.old[oid] = commit(writer, store(oid, b'old'))
        writer.close()
        process.stop()
        shutil.copy(self.path, self.backup)
        process.start()
        self.victim = client(process.address, **options)
        self.lost = commit(self.victim, store(ONE, b'lost', self.old[ONE]))
        for oid in self.old:
            self.victim.loadBefore(oid, maxtid)

    def goes_another_way(self, restarts=1):
        """The server is killed; the backup is restored, and somebody else writes."""
        address = self.process.address
        self.process.kill()
        put(self.path, self.backup)
        self.process.address = '127.0.0.1', 0  # not where the victim looks
        self.process.start()
        other = self.connect(self.process.address)
        commit(other, store(TWO, b'new', self.old[TWO]))
        other.close()
        for _ in range(restarts):
            self.process.stop()
            self.process.address = address
            self.process.start()


def test_a_persistent_cache_of_a_lost_future(process, client, tmp_path):
    """C22, K3: an error that names the file; or, by option, it is dropped; our server and ZEO's."""
    path = str(tmp_path / 'main.zec')
    past = Past(process, client, tmp_path, cache=path)
    past.victim.close()
    past.goes_another_way()
    with pytest.raises(ClientDisconnected, match=f'never was in the database.*remove the cache file {path}'):
        client(process.address, cache=path, wait_timeout=2)
    again = client(process.address, cache=path, drop_newer_cache=True)
    assert again.loadBefore(ONE, maxtid)[0] == b'old'
    assert again.loadBefore(TWO, maxtid)[0] == b'new'


def test_a_live_client_of_a_lost_future(process, client, tmp_path):
    """C22, K3: it reads nothing that never was, and writes nothing."""
    past = Past(process, client, tmp_path, wait_timeout=20)
    past.goes_another_way()
    while past.victim.effects.applying is None:
        with pytest.raises(ClientDisconnected):
            inside.manager(past.victim).link(0.1)
    for oid in (ONE, TWO):
        with pytest.raises(ClientDisconnected, match='restart this client'):
            past.victim.loadBefore(oid, maxtid)
    assert past.victim.lastTransaction() == past.lost


def test_a_live_client_that_may_drop_it_goes_on(process, client, tmp_path):
    """C22, C23."""
    past = Past(process, client, tmp_path, wait_timeout=20, drop_newer_cache=True)
    past.goes_another_way()
    past.victim.ping()
    assert past.victim.loadBefore(ONE, maxtid)[0] == b'old'
    assert past.victim.loadBefore(TWO, maxtid)[0] == b'new'
    assert past.victim.lastTransaction() > past.lost
    commit(past.victim, store(ONE, b'newer', past.old[ONE]))


def test_the_same_past_with_a_new_identity(client, tmp_path):
    """C22: only Data.fs was moved to another machine; the client's cache stays warm."""
    path = str(tmp_path / 'main.zec')
    with ServerProcess([{'kind': 'file', 'path': str(tmp_path / 'Data.fs')}]) as process:
        past = Past(process, client, tmp_path, cache=path)
        past.victim.close()
        identity = (tmp_path / 'Data.fs.identity').read_bytes()
        os.remove(tmp_path / 'Data.fs.identity')
        process.restart()
        other = client(process.address)
        commit(other, store(TWO, b'new', past.old[TWO]))
        again = client(process.address, cache=path)
        assert (tmp_path / 'Data.fs.identity').read_bytes() != identity
        loads = again.server_status()['loads']
        assert again.loadBefore(ONE, maxtid)[0] == b'lost'
        assert again.server_status()['loads'] == loads
        assert again.loadBefore(TWO, maxtid)[0] == b'new'


def test_another_database_at_the_same_address(client, tmp_path):
    """C22, K3: younger than the client's last transaction, all of it."""
    path = str(tmp_path / 'main.zec')
    with ServerProcess([{'kind': 'file', 'path': str(tmp_path / 'Data.fs')}]) as process:
        past = Past(process, client, tmp_path, cache=path)
        past.victim.close()
    os.remove(tmp_path / 'Data.fs.identity')
    for name in ('Data.fs', 'Data.fs.index'):
        os.remove(tmp_path / name)
    with ServerProcess([{'kind': 'file', 'path': str(tmp_path / 'Data.fs')}]) as process:
        commit(client(process.address), store(ONE, b'foreign'))
        with pytest.raises(ClientDisconnected, match='never was in the database'):
            client(process.address, cache=path, wait_timeout=2)


def test_a_restored_backup_that_nobody_has_written_to(client, tmp_path):
    """K3, C22: a live client has seen more than there is; it is the same database, so this is no replica."""
    with ServerProcess([{'kind': 'file', 'path': str(tmp_path / 'Data.fs')}]) as process:
        past = Past(process, client, tmp_path, wait_timeout=1)
        process.kill()
        put(past.path, past.backup)
        process.start()
        with pytest.raises(ClientDisconnected, match='is newer'):
            past.victim.ping()
        with pytest.raises(ClientDisconnected, match='is newer'):
            past.victim.loadBefore(ONE, maxtid)


def test_open_connections_go_back_with_their_database(client, tmp_path):
    """C23, K3: by option a live database goes back to the server's last transaction; its connections begin
    there, see what is there, and are told of what follows."""
    with ServerProcess([{'kind': 'file', 'path': str(tmp_path / 'Data.fs')}]) as process:
        storage = client(process.address, drop_newer_cache=True)
        database = ZODB.DB(storage)
        manager = transaction.TransactionManager()
        connection = database.open(manager)
        root = connection.root()
        root['x'] = 'kept'
        manager.commit()
        process.stop()
        shutil.copy(tmp_path / 'Data.fs', tmp_path / 'backup')
        process.start()
        for number in range(5):
            root['x'] = f'lost {number}'
            manager.commit()
        process.kill()
        put(str(tmp_path / 'Data.fs'), tmp_path / 'backup')
        process.start()
        storage.ping()
        manager.begin()
        assert root['x'] == 'kept'
        other = ZODB.DB(client(process.address))
        with other.transaction() as its:
            its.root()['x'] = 'new'
        storage.ping()
        manager.begin()
        assert root['x'] == 'new'
        root['x'] = 'newer'
        manager.commit()
        other.storage.ping()
        with other.transaction() as its:
            assert its.root()['x'] == 'newer'
        other.close()
        connection.close()
        database.close()


def test_a_pack_is_no_other_past(client, tmp_path):
    """C22: a client at a transaction that was packed away loses its cache, not its server."""
    path = str(tmp_path / 'main.zec')
    with ServerProcess([{'kind': 'file', 'path': str(tmp_path / 'Data.fs')}]) as process:
        database = ZODB.DB(client(process.address))
        with database.transaction() as connection:
            connection.root()['x'] = 1
        sleeper = client(process.address, cache=path)
        sleeper.loadBefore(z64, maxtid)
        sleeper.close()
        for number in range(2, 5):
            with database.transaction() as connection:
                connection.root()['x'] = number
        database.pack()
        current = database.storage.loadBefore(z64, maxtid)
        database.close()
        process.restart()
        again = client(process.address, cache=path)
        assert again.loadBefore(z64, maxtid) == current
