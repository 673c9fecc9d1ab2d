"""A real PostgreSQL, a cluster of its own for the tests, and storages in databases of it."""
from __future__ import annotations

import re
import tempfile

import pytest

from benchmarks.postgres import Cluster, find_programs
from tests.docs.pages import blocks
from tests.postgresql.counting import PATIENCE_S
from tests.server.test_server import Wire
from tests.support.runzeo_process import Runzeo
from zeo_clone.ClientStorage import ClientStorage


@pytest.fixture(scope='session')
def cluster():
    """A running `Cluster`, which does not wait for the disk: nobody cuts its power."""
    pytest.importorskip('relstorage', reason='RelStorage is not installed')
    if find_programs() is None:
        pytest.skip('PostgreSQL is not installed: there is no initdb in $PATH or below /usr/lib/postgresql')
    # Not below tmp_path, which another user, who runs it for root, cannot enter.
    with Cluster(tempfile.gettempdir(), ['fsync=off']) as cluster:
        yield cluster


@pytest.fixture(params=['with history', 'without history'])
def keep_history(request):
    return request.param == 'with history'


@pytest.fixture
def dsn(cluster):
    """Of a new database."""
    name = cluster.create()
    yield cluster.dsn(name)
    cluster.drop(name)


@pytest.fixture
def new_storage(dsn, keep_history):
    """Open the RelStorage in that database once more: ``new_storage(**options)``."""
    from relstorage.adapters.postgresql import PostgreSQLAdapter
    from relstorage.options import Options
    from relstorage.storage import RelStorage
    opened = []

    def open_storage(**given):
        options = Options(keep_history=keep_history, driver='psycopg2', **given)
        opened.append(RelStorage(PostgreSQLAdapter(dsn=dsn, options=options), options=options))
        return opened[-1]

    yield open_storage
    for storage in opened:
        storage.close()


@pytest.fixture
def new_database_server(new_storage, new_server):
    """Start one more server in front of that database."""
    def start(options=None, **server_options):
        return new_server({'1': new_storage(**(options or {}))}, **server_options)

    return start


@pytest.fixture
def servers(new_database_server):
    """They wait for a database for longer than any machine takes to start one."""
    return [new_database_server(database_patience_s=PATIENCE_S) for _ in range(2)]


@pytest.fixture
def wire():
    """Connect to a server, by frames."""
    wires = []

    def connect(server, token=None):
        made = Wire(server.addr)
        wires.append(made)
        made.socket.settimeout(PATIENCE_S)
        made.register()
        if token is not None:
            made.call('identify', token, 0)
        return made

    yield connect
    for each in wires:
        each.socket.close()


@pytest.fixture
def client():
    """Open a ClientStorage of a server."""
    opened = []

    def connect(server, **options):
        opened.append(ClientStorage(server.addr, wait_timeout=PATIENCE_S, **options))
        return opened[-1]

    yield connect
    for storage in opened:
        storage.close()


@pytest.fixture
def configure(dsn, tmp_path):
    """Write the server's file of the page, for this database: ``configure(name, dsn)`` is its path."""
    text, = (block.text for block in blocks('scale-out.md')
             if block.language == 'text' and '<relstorage main>' in block.text)

    def write(name='zeo.conf', dsn=dsn, patience_s=PATIENCE_S):
        written, count = re.subn(r'dsn .*', f'dsn {dsn}', text)
        written, more = re.subn('address 9100', 'address 127.0.0.1:0', written)
        written = written.replace('<zeo>', f'<zeo>\n  database-patience {patience_s}')
        written, blobs = re.subn('/var/cache/zeo/blobs', str(tmp_path / 'blobs'), written)
        assert (count, more, blobs) == (1, 1, 1)
        path = tmp_path / name
        path.write_text(written)
        return path

    return write


@pytest.fixture
def configuration(configure):
    """The path of such a file."""
    return configure()


@pytest.fixture
def new_process(configure):
    """Start one more server, as a process."""
    running = []

    def start(address='127.0.0.1:0', configuration=None):
        running.append(Runzeo('-C', configuration or configure(), '-a', address, limit_s=7200))
        return running[-1].ready('main')

    yield start
    for process in running:
        process.__exit__()


@pytest.fixture
def query(dsn):
    """Ask the database itself: rows of a statement."""
    import psycopg2
    connections = []

    def ask(statement, *arguments):
        if not connections:
            connections.append(psycopg2.connect(dsn))
            connections[0].autocommit = True
        with connections[0].cursor() as cursor:
            cursor.execute(statement, arguments)
            return cursor.fetchall() if cursor.description else None

    yield ask
    for connection in connections:
        connection.close()
