"""Fixtures: a scripted server, and storages that are closed at the end."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.client.fake_server import FakeServer
from zeo_clone.client.storage import ClientStorage


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    server = FakeServer()
    yield server
    server.close()


@pytest.fixture
def opened(fake: FakeServer) -> Iterator[Callable[..., ClientStorage]]:
    """Makes ClientStorages of the scripted server."""
    made: list[ClientStorage] = []

    def make(addr: Any = None, **keywords: Any) -> ClientStorage:
        keywords.setdefault('wait_timeout', 10)
        made.append(ClientStorage(addr or fake.address, **keywords))
        return made[-1]

    yield make
    for storage in made:
        storage.close()
