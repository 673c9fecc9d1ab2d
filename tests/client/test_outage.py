"""Outages: the log says why there is no connection, and whoever is refused slows down (N18)."""
from __future__ import annotations

import logging
import ssl
import threading

import pytest
from ZODB.POSException import ReadOnlyError

from tests.server.desk import ClockRuntime, HandLoop
from tests.support import inside
from zeo_clone.client import manager, outage, search
from zeo_clone.client.arguments import arguments
from zeo_clone.client.options import make_options
from zeo_clone.client.outage import Outage, is_definite
from zeo_clone.Exceptions import ClientDisconnected, ClientStorageError, ProtocolError, UnrecognizedResult


@pytest.fixture
def loop():
    return HandLoop(ClockRuntime())


class Owner:
    def manager_starts(self):
        """The loop is a hand's."""

    def link_info(self, link, info):
        """No link gets so far."""


def searching(loop, monkeypatch, *errors, **keywords):
    """A manager whose attempts all end at once in these errors, one for each address; its pauses."""
    addresses = [f'/nowhere/{number}' for number in range(len(errors))]
    fates = dict(zip(addresses, errors, strict=True))
    monkeypatch.setattr(search.Attempt, 'connect', lambda attempt: attempt.fail(fates[str(attempt.target)]))
    found = manager.Manager(make_options(arguments(addresses, **keywords)), loop, None, None, Owner())
    pauses = []
    call_later = loop.call_later

    def watched(delay, callback):
        if callback == found._search.go_on:
            pauses.append(delay)
        return call_later(delay, callback)

    loop.call_later = watched
    found.start()
    loop.turn()
    return found, pauses


def messages(caplog):
    return [record.getMessage() for record in caplog.records if record.name == 'zeo_clone.client.outage']


def go_on(loop, seconds):
    for _ in range(int(seconds * 20)):
        loop.advance(0.05)


def test_the_log_says_why_after_three_seconds_then_once_a_minute(loop, monkeypatch, caplog):
    """N18, N13: one line with the last error of each address."""
    searching(loop, monkeypatch, ConnectionRefusedError(111, 'Connection refused'),
              ValueError('unknown\nstorage'))
    go_on(loop, 2.5)
    assert not caplog.records
    go_on(loop, 1)
    line = ("storage '1': no connection to a server at /nowhere/0, /nowhere/1 for {} (/nowhere/0: "
            'ConnectionRefusedError: [Errno 111] Connection refused; /nowhere/1: ValueError: unknown '
            'storage); looking on')
    assert messages(caplog) == [line.format('3 s')]
    assert caplog.records[0].levelno == logging.WARNING
    go_on(loop, 121)
    assert messages(caplog) == [line.format('3 s'), line.format('1:03 min'), line.format('2:03 min')]


def test_a_short_outage_leaves_no_line(loop, caplog):
    found = Outage(loop, lambda elapsed: 'no connection')
    for _ in range(5):
        found.begin()
        found.begin()
        loop.advance(2.9)
        found.end()
        loop.advance(100)
    assert not caplog.records
    found.begin()
    loop.advance(3)
    assert messages(caplog) == ['no connection; looking on']


def test_a_storage_that_was_closed_says_nothing(loop, monkeypatch, caplog):
    found, _ = searching(loop, monkeypatch, ConnectionRefusedError(111, 'Connection refused'))
    found.close()
    go_on(loop, 200)
    assert not caplog.records
    assert not len(loop.timers)


def test_the_log_tells_each_outage(new_server, client, monkeypatch):
    """N18: also of a server that was in use."""
    monkeypatch.setattr(outage, 'FIRST_S', 0.2)
    server, said = new_server(), threading.Event()
    storage = client(server.addr, wait_timeout=20)
    monkeypatch.setattr(outage.log, 'warning', lambda text, *args: said.set())
    server.close()
    assert said.wait(20)
    new_server(addr=server.addr)
    assert inside.manager(storage).link(20)
    assert inside.manager(storage)._outage._timer is None


def test_the_line_is_short_whatever_the_errors(loop, monkeypatch, caplog):
    """L8."""
    searching(loop, monkeypatch, *[ValueError('x' * 5000)] * 40)
    go_on(loop, 4)
    assert len(messages(caplog)[0]) < manager.MAX_LINE + 20


@pytest.mark.parametrize(('errors', 'slow'), [
    ([ValueError('unknown storage')], True), ([ProtocolError('Z4')], True), ([ReadOnlyError()], True),
    ([ssl.SSLCertVerificationError(1, 'expired')], True), ([ClientStorageError('cache is newer')], True),
    ([ValueError('unknown storage'), ProtocolError('Z4')], True),
    ([ConnectionRefusedError(111, 'x')], False), ([TimeoutError('slow')], False),
    ([ClientDisconnected('x')], False),
    ([ssl.SSLEOFError(8, 'EOF')], False),
    ([ValueError('unknown storage'), ConnectionRefusedError(111, 'x')], False)])
def test_whoever_is_refused_everywhere_slows_down(loop, monkeypatch, errors, slow):
    """N18.  If one server just does not run, it will be found within the second."""
    _, pauses = searching(loop, monkeypatch, *errors)
    go_on(loop, 60)
    longest = search.REFUSED_PAUSE_S if slow else search.LONGEST_PAUSE_S
    assert 0.8 * longest <= max(pauses) <= 1.2 * longest
    assert (len(pauses) < 20) is slow


def test_what_is_definite():
    assert is_definite(UnrecognizedResult('x'))
    assert not is_definite(OSError(5, 'x'))
    assert not is_definite(RuntimeError('x'))


def test_a_client_with_a_wrong_storage_says_so_and_recovers(new_server, client, monkeypatch):
    """N18: with real servers."""
    monkeypatch.setattr(outage, 'FIRST_S', 0.2)
    monkeypatch.setattr(outage, 'INTERVAL_S', 0.2)  # the first line may come before the server's answer
    monkeypatch.setattr(search, 'REFUSED_PAUSE_S', 0.3)
    server = new_server()
    said = threading.Event()

    def warning(text, *args):
        if "ValueError: unknown storage 'later'; this server has '1'" in text % args:
            said.set()

    monkeypatch.setattr(outage.log, 'warning', warning)
    storage = client(server.addr, storage='later', wait=False)
    assert said.wait(20)
    address = server.addr
    server.close()
    new_server({'later': server.storages['1'].__class__()}, addr=address)
    assert inside.manager(storage).link(20)
