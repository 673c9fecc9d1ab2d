"""N1: heartbeats both ways with a read deadline."""
from __future__ import annotations

import contextlib
import logging
import math
import socket
import threading

import pytest

import zeo_clone
from tests.connections.blackhole import Wire
from tests.server.desk import Desk
from tests.support import inside
from zeo_clone.client import heartbeat as client_heartbeat
from zeo_clone.Exceptions import ClientDisconnected
from zeo_clone.loop.runtime import REAL
from zeo_clone.server.clients import heartbeat as server_heartbeat
from zeo_clone.StorageServer import StorageServer

#: So short an interval that a test need not wait for long.
INTERVAL_S = 0.1


@pytest.fixture
def wire_to(request):
    def make(server):
        wire = Wire(server.addr)
        request.addfinalizer(wire.close)
        return wire
    return make


@pytest.mark.parametrize('io_thread', [True, False])
def test_a_server_that_vanished_is_noticed_by_a_waiting_call(new_server, client, wire_to, io_thread):
    """N1: the wire swallows everything; a call that waits for its reply ends with the reason."""
    server = new_server()
    wire = wire_to(server)
    storage = client(wire.address, heartbeat=INTERVAL_S, wait_timeout=0.5, io_thread=io_thread)
    wire.swallow()
    with pytest.raises(ClientDisconnected, match='silent for 0.2 s'):
        storage.ping()


def test_a_server_that_vanished_is_noticed_while_the_application_is_silent(new_server, client, wire_to):
    """N1: nobody calls; the I/O thread notices, and finds the server when it is back."""
    server = new_server()
    wire = wire_to(server)
    storage = client(wire.address, heartbeat=INTERVAL_S, wait_timeout=20)
    ended = wire.ended
    wire.swallow()
    wire.wait(lambda: wire.ended > ended)
    wire.heal()
    storage.ping()


def test_a_client_that_vanished_is_noticed(new_server, client, wire_to, caplog):
    """N1: the server drops a client that promised to be heard of and is not."""
    caplog.set_level(logging.WARNING)
    server = new_server(heartbeat_s=INTERVAL_S)
    wire = wire_to(server)
    storage = client(wire.address, heartbeat=INTERVAL_S)
    session, = inside.sessions(server)
    while math.isinf(session.pulse.interval_s):  # the promise comes from the I/O thread
        storage.ping()
    gone = threading.Event()
    forget = server.forget
    server.forget = lambda session: (forget(session), gone.set())
    wire.swallow()
    assert gone.wait(20)
    assert 'nothing was heard of it for 0.25 s' in caplog.text


def test_a_server_cannot_beat_all_the_time():
    """N1, S12: nothing else would be done."""
    with pytest.raises(ValueError, match='heartbeat_s is 0; it must be more than 0'):
        StorageServer(('127.0.0.1', 0), {}, heartbeat_s=0)


def test_a_client_without_an_io_thread_may_be_silent(new_server, client):
    """Its application may have other things to do; nobody expects heartbeats of it."""
    server = new_server(heartbeat_s=0.02)
    storage = client(server.addr, heartbeat=0.01, io_thread=False)
    session, = inside.sessions(server)
    storage.ping()
    assert math.isinf(session.pulse.interval_s)
    # Five keep-alive messages of the server have come when there are 5 * 22 bytes or more.
    channel = inside.link(storage).channel
    before = channel.transport.received
    while channel.transport.received < before + 100:
        REAL.wait(channel.fd, True, False, 20)
        storage._life.process_pending()
    assert session in inside.sessions(server)


def test_intervals_have_names_and_add_up_to_three():
    """N1: a question after one interval, two of silence; the system's own limits are as long."""
    assert client_heartbeat.PATIENCE + 1 == 3
    assert server_heartbeat.PATIENCE + 0.5 == 3
    assert client_heartbeat.INTERVAL_S == server_heartbeat.INTERVAL_S == 10


@pytest.mark.skipif(not hasattr(socket, 'TCP_USER_TIMEOUT'), reason='Linux only')
def test_tcp_itself_notices_a_host_that_vanished(server, client):
    """N1: for clients that promise nothing; both ends of a connection have the options."""
    storage = client(server.addr)
    session, = inside.sessions(server)
    for sock in (inside.link(storage).channel.socket, session.channel.socket):
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 30_000


class Counter:
    """Counts calls of `function`, which it makes; `done` is set at the fifth."""

    def __init__(self, function):
        self._function = function
        self._count = 0
        self.done = threading.Event()

    def __call__(self, *args):
        self._count += 1
        if self._count == 5:
            self.done.set()
        return self._function(*args)


def test_clients_of_zeo_ignore_keep_alive_messages(new_server, console):
    """N1: our server may send them to any Z5 client."""
    server = new_server(heartbeat_s=0.05)
    prompt = console('ZEO')
    prompt.connect(server.addr)
    session, = inside.sessions(server)
    session.channel.core.send_keep_alive = counter = Counter(session.channel.core.send_keep_alive)
    assert counter.done.wait(20)
    prompt.run("root['x'] = 1; transaction.commit()")
    assert list(inside.sessions(server)) == [session]


def test_servers_of_zeo_answer_heartbeats(peer_server, client):
    """N1: they send nothing by themselves, but they answer ``ping``."""
    storage = client(peer_server.address, heartbeat=0.05)
    link = inside.link(storage)
    link._heartbeat._answered = counter = Counter(link._heartbeat._answered)
    assert counter.done.wait(20)
    assert inside.link(storage) is link


# -- what is told with it -------------------------------------------------------------------------------

def test_client_tells_its_version_and_how_often_its_cache_had_what_was_wanted(new_server, client):
    server = new_server()
    db = zeo_clone.DB(server.addr)
    with contextlib.closing(db):
        for _ in range(3):
            with db.transaction() as connection:
                connection.cacheMinimize()
                connection.root()._p_activate()
        session, = inside.sessions(server)
        stats = db.storage.cache_stats()
        inside.link(db.storage)._heartbeat.beat()
        while session.member.told.get('hits') != stats['hits']:
            db.storage.ping()
        described, = server.server_status()['clients']
    assert described['version'] == zeo_clone.__version__
    assert (described['hits'], described['misses']) == (stats['hits'], stats['misses'])


@pytest.mark.parametrize(('told', 'kept'), [
    ({}, {}), ({'version': 'x\n' * 99, 'hits': 1}, {'version': 'x?' * 20, 'hits': 1}),
    ({'version': 7, 'hits': -1, 'misses': 1 << 63, 'more': []}, {}), ({'hits': True}, {}),
])
def test_what_a_client_tells_is_looked_at(told, kept):
    """S5a"""
    client = Desk().connect()
    client.call('heartbeat', 1.0, told)
    assert client.session.member.told == kept
    with pytest.raises(ValueError, match='dict'):
        client.call('heartbeat', 1.0, [told])
