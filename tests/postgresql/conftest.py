"""A real PostgreSQL, a cluster of its own for the tests, and storages in databases of it."""
from __future__ import annotations

import tempfile

import pytest

from benchmarks.postgres import Cluster, find_programs


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
