"""Fixtures for modules that have a fixture `storage`: a server without sockets, and a client of it."""
from __future__ import annotations

import pytest

from tests.server.desk import Desk


@pytest.fixture
def desk(storage):
    desk = Desk({'1': storage})
    yield desk
    desk.close()


@pytest.fixture
def client(desk):
    return desk.connect()
