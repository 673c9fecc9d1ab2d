"""The machine of the database dies, and its standby is promoted (X3): what was acknowledged is there."""
from __future__ import annotations

import tempfile
import threading
from contextlib import ExitStack

import pytest
from ZODB import DB

from benchmarks.postgres import Cluster
from tests.postgresql.test_processes import count_up
from zeo_clone.ClientStorage import ClientStorage

pytestmark = pytest.mark.long

PATIENCE_S = 120  # only what hangs meets it
CLIENTS = 3


@pytest.fixture
def keep_history():
    return True


@pytest.fixture
def pair(cluster):
    """A primary, its standby, without which it acknowledges nothing, and the DSN of a database of both."""
    with ExitStack() as stack:
        # Not below tmp_path, which another user, who runs it for root, cannot enter.
        primary = stack.enter_context(Cluster(
            tempfile.gettempdir(), ['fsync=off', 'synchronous_standby_names=walreceiver']))
        name = primary.create()
        standby = stack.enter_context(Cluster(tempfile.gettempdir(), ['fsync=off'], primary))
        yield primary, standby, (f'host={primary.directory},{standby.directory} user=postgres dbname={name} '
                                 f'target_session_attrs=read-write')


@pytest.fixture
def dsn(pair):
    return pair[2]


def test_acknowledged_commits_are_there_once_after_a_promotion(pair, new_database_server, caplog):
    """X3, C11: commits under way at that moment have a definite outcome, at whichever server."""
    primary, standby, _ = pair
    addresses = [new_database_server(database_patience_s=PATIENCE_S).addr for _ in range(2)]
    DB(ClientStorage(addresses[0], wait_timeout=PATIENCE_S)).close()  # makes the root object
    stop, counted, enough = threading.Event(), {}, threading.Semaphore(0)
    threads = [threading.Thread(target=count_up, args=(addresses[::1 - 2 * (number % 2)], f'client {number}',
                                                       stop, counted, enough, '1'))
               for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(8):
            assert enough.acquire(timeout=PATIENCE_S)
        primary.crash()
        standby.promote()
        before = dict(counted)
        while any(counted[name] < before.get(name, 0) + 3 for name in counted) or len(counted) < CLIENTS:
            assert enough.acquire(timeout=PATIENCE_S)
            assert all(thread.is_alive() for thread in threads)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    database = DB(ClientStorage(addresses[0], wait_timeout=PATIENCE_S))
    try:
        with database.transaction() as connection:
            assert {name: connection.root()[name] for name in counted} == counted
    finally:
        database.close()
    assert 'the database has lost transaction' not in caplog.text
