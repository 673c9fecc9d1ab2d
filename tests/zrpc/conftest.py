"""Fixtures: connections of a client's channel with a fake server."""
from __future__ import annotations

import pytest

from tests.zrpc.helpers import Connection, WatchingRuntime


@pytest.fixture
def connect():
    """Make open connections: ``connect(threaded)``; threaded: the loop runs in a thread of its own."""
    made = []

    def make(threaded=True):
        connection = Connection(WatchingRuntime(), threaded)
        made.append(connection)
        connection.open()
        return connection

    yield make
    for connection in made:
        connection.close()


@pytest.fixture(params=[True, False], ids=['I/O thread', 'no thread'])
def either(request, connect):
    """A connection with an I/O thread, and one without."""
    return connect(request.param)
