"""Fixtures: a scripted server, and storages that are closed at the end."""
from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.client.fake_server import FakeServer
from tests.support import inside
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


@pytest.fixture
def connected(opened: Callable[..., ClientStorage]) -> Callable[..., ClientStorage]:
    """The same, connected however short their ``wait_timeout`` is, and however busy the machine."""
    def make(**keywords: Any) -> ClientStorage:
        storage = opened(wait=False, **keywords)
        inside.manager(storage).link(20)
        return storage

    return make
