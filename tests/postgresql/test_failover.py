"""The machine of the database dies, and its standby is promoted (X3): what was acknowledged is there."""
from __future__ import annotations

import tempfile
from contextlib import ExitStack

import pytest
from ZODB import DB

from benchmarks.postgres import Cluster
from tests.postgresql.counting import PATIENCE_S, Counting
from zeo_clone.ClientStorage import ClientStorage

pytestmark = [pytest.mark.long, pytest.mark.once]

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
    with Counting([addresses[::1 - 2 * (number % 2)] for number in range(CLIENTS)], '1') as counting:
        assert counting.wait()
        primary.crash()
        standby.promote()
        counting.wait_for_all()
    counting.check(addresses[0])
    assert 'the database has lost transaction' not in caplog.text
