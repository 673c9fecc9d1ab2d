"""A server in this process, and its monitor."""
from __future__ import annotations

import contextlib
import http.client
from http import HTTPStatus

import pytest

from zeo_clone.monitor.monitor import Monitor

LIMIT_S = 60  # only a server that hangs meets it


def get(address, path, **headers):
    """Status, headers and text of what is at a path."""
    with contextlib.closing(http.client.HTTPConnection(*address, timeout=LIMIT_S)) as connection:
        connection.request('GET', path, headers=headers)
        response = connection.getresponse()
        return HTTPStatus(response.status), response.headers, response.read().decode()


@pytest.fixture
def new_monitor():
    """Start monitors: ``new_monitor(server=None)``; one with a server watches it."""
    with contextlib.ExitStack() as stack:

        def start(server=None):
            monitor = stack.enter_context(contextlib.closing(Monitor(('127.0.0.1', 0))))
            if server is not None:
                monitor.begin(server)
            return monitor

        yield start


@pytest.fixture
def measured(new_server):
    """A StorageServer that measures."""
    return new_server(measure=True)


@pytest.fixture
def ask(measured, new_monitor):
    """Ask the monitor of `measured` for a path: (status, headers, text)."""
    monitor = new_monitor(measured)
    return lambda path, **headers: get(monitor.address, path, **headers)
