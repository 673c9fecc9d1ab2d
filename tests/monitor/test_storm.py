"""S15: a storm of connections does not keep a health check out."""
from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque

import pytest

from tests.monitor.conftest import get
from tests.support import inside
from zeo_clone.commands.health import ask
from zeo_clone.monitor.web import MAX_CONNECTIONS
from zeo_clone.server.clients import strangers

KEPT = 4 * MAX_CONNECTIONS
MAX_STRANGERS = 3 * MAX_CONNECTIONS


@contextlib.contextmanager
def storm(address):
    """A thread that opens one mute connection after the other, and keeps the last ones."""
    ended, raging = threading.Event(), threading.Event()

    def rage():
        kept = deque()
        try:
            while not ended.is_set():
                with contextlib.suppress(OSError):
                    kept.append(socket.create_connection(address, 60))
                if len(kept) >= KEPT:
                    raging.set()
                    kept.popleft().close()
        finally:
            for sock in kept:
                sock.close()

    thread = threading.Thread(target=rage, daemon=True)
    thread.start()
    try:
        assert raging.wait(60)
        yield
    finally:
        ended.set()
        thread.join(60)


@pytest.mark.parametrize('path', ['/healthz', '/readyz', '/metrics'])
def test_health_checks_are_answered_in_a_storm(measured, new_monitor, path):
    """S15."""
    monitor = new_monitor(measured)
    with storm(monitor.address):
        for _ in range(20):
            assert get(monitor.address, path)[0] == 200


def test_ruok_is_answered_in_a_storm(new_server, client, monkeypatch):
    """S15.  Clients that have registered keep their places."""
    monkeypatch.setattr(strangers, 'SILENT_S', 1.0)  # who asks shares the interpreter with the storm
    server = new_server(max_connections=MAX_STRANGERS * 4)  # a quarter of them for strangers
    storage = client(server.addr)
    with storm(server.addr):
        for _ in range(10):
            assert ask(server.addr, 60)['1']['connections'] == 1
    storage.ping()
    assert not inside.link(storage).channel.closed
