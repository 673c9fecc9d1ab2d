"""The whole server over real sockets: listening, health checks, limits, the end."""
from __future__ import annotations

import json
import logging
import os
import pickle
import socket
import struct
import sys
import threading

import pytest
import ZODB.event
from ZODB.MappingStorage import MappingStorage

from zeo_clone.server import server as server_module
from zeo_clone.StorageServer import Closed, Serving, StorageServer


class Wire:
    """A client of which the test sees every frame.  Blocking, with a deadline."""

    def __init__(self, address):
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.socket = socket.socket(family)
        self.socket.settimeout(20)
        try:
            self.socket.connect(address)
            if family == socket.AF_INET:
                self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, content):
        self.socket.sendall(struct.pack('>I', len(content)) + content)

    def _read(self, count):
        data = b''
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def receive(self):
        """The next frame; raises EOFError at the end."""
        return self._read(struct.unpack('>I', self._read(4))[0])

    def notice(self):
        """The next one-way call of the server: its name and arguments."""
        message_id, flag, name, args = pickle.loads(self.receive())
        assert (message_id, flag) == (0, 1)
        return name, args

    def at_end(self):
        """Whether the server closes the connection without sending anything more."""
        try:
            return self.socket.recv(1) == b''
        except ConnectionResetError:
            return True

    def call(self, name, *args):
        self.send(pickle.dumps((1, False, name, args), 3))
        while True:
            message_id, flag, _, value = pickle.loads(self.receive())
            if message_id == 1:
                assert flag != 2, value
                return value

    def oneway(self, name, *args):
        self.send(pickle.dumps((0, True, name, args), 3))

    def commit(self, *oids, serial=bytes(8)):
        """A whole transaction; its tid."""
        self.oneway('tpc_begin', 7, b'', b'', {}, None, ' ')
        for oid in oids:
            self.oneway('storea', oid, serial, b'data', 7)
        assert self.call('vote', 7) == []
        return self.call('tpc_finish', 7)

    def register(self, storage='1'):
        assert self.receive() == b'Z5'
        self.send(b'Z5')
        self.call('register', storage, False)
        return self


@pytest.fixture
def wire():
    wires = []

    def connect(server):
        wires.append(Wire(server.addr))
        return wires[-1]

    yield connect
    for each in wires:
        each.socket.close()


def test_a_client_is_served(server, wire):
    client = wire(server).register()
    assert client.call('ping') is None
    assert client.call('lastTransaction') == bytes(8)
    assert server.server_status()['connections'] == 1


def test_a_client_is_served_at_a_unix_socket(new_server, wire, tmp_path):
    path = str(tmp_path / 'socket')
    server = new_server(addr=path)
    assert wire(server).register().call('ping') is None
    server.close()
    assert not os.path.exists(path)


def test_an_address_may_be_text_or_a_port(new_server):
    assert new_server(addr='127.0.0.1:0').addr[0] == '127.0.0.1'
    assert new_server(addr=0).addr[0] is None


def test_ruok_is_answered_before_register_and_the_connection_closed(server, wire):
    """N9."""
    client = wire(server)
    assert client.receive() == b'Z5'
    client.send(b'ruok')
    status = json.loads(client.receive())
    assert status['1']['last-transaction'] == '0' * 16
    assert client.at_end()


def test_health_checks_leave_nothing_in_the_log(server, wire, caplog):
    """N9: a TCP connect, one that hangs up after the greeting, and `ruok`."""
    with caplog.at_level(logging.INFO):
        wire(server).socket.close()
        client = wire(server)
        client.receive()
        client.socket.close()
        client = wire(server)
        client.receive()
        client.send(b'ruok')
        client.receive()
        assert client.at_end()
        assert wire(server).register().call('ping') is None  # the others are done with by now
    assert [message for message in caplog.messages if 'connected to storage' not in message] == []


def test_a_peer_that_is_silent_is_dropped(new_server, wire, caplog):
    """N6."""
    client = wire(new_server(handshake_timeout_s=0.01))
    assert client.receive() == b'Z5'
    assert client.at_end()


def test_a_peer_that_does_not_register_is_dropped(new_server, wire):
    """N6."""
    client = wire(new_server(handshake_timeout_s=0.01))
    client.send(b'Z5')
    assert client.receive() == b'Z5'
    assert client.at_end()


def test_a_registered_client_may_be_silent(new_server, wire):
    server = new_server(handshake_timeout_s=0.05)
    client = wire(server).register()
    silent = wire(server)
    silent.receive()
    assert silent.at_end()
    assert client.call('ping') is None


def test_the_number_of_connections_has_a_limit(new_server, wire, caplog):
    """N6."""
    server = new_server(max_connections=1)
    client = wire(server).register()
    assert wire(server).at_end()
    assert any('refused' in message and '1 connections' in message for message in caplog.messages)
    assert client.call('ping') is None


@pytest.mark.parametrize('garbage', [b'GET / HTTP/1.1\r\n\r\n', b'\0\0\0\2Z3', b'\0\0\0\2M5', b'\xff' * 8])
def test_a_peer_that_speaks_something_else_is_closed_with_one_line(server, wire, caplog, garbage):
    client = wire(server)
    with caplog.at_level(logging.INFO):
        client.socket.sendall(garbage)
        assert client.receive() == b'Z5'
        assert client.at_end()
        wire(server).register()
    lines = [message for message in caplog.messages if 'disconnected' in message]
    assert len(lines) == 1
    assert lines[0].startswith('127.0.0.1:')


def test_errors_in_accept_do_not_stop_the_acceptor(new_server, wire, caplog, monkeypatch):
    """N5: a connection that cannot be set up, then one that can."""
    real, failures = server_module.ServerChannel, [OSError(24, 'Too many open files')]

    def channel(*args):
        if failures:
            raise failures.pop()
        return real(*args)

    monkeypatch.setattr(server_module, 'ServerChannel', channel)
    server = new_server()
    assert wire(server).at_end()
    assert wire(server).register().call('ping') is None
    assert any('could not set up a connection' in message for message in caplog.messages)


def test_invalidations_cross_the_wire_in_commit_order(server, wire):
    reader, writer = wire(server).register(), wire(server).register()
    tids = [writer.commit(number.to_bytes(8, 'big')) for number in range(20)]
    told = [reader.notice() for _ in range(20)]
    assert told == [('invalidateTransaction', (tid, [number.to_bytes(8, 'big')]))
                    for number, tid in enumerate(tids)]


class Slow(MappingStorage):
    """Some methods take until `go`, and then tell the name of their thread."""

    def __init__(self):
        super().__init__()
        self.go = threading.Event()
        self.thread = None

    def _take_long(self, *_, **__):
        assert self.go.wait(20)
        self.thread = threading.current_thread().name
        return []

    history = pack = iterator = _take_long


@pytest.mark.parametrize('name, args', [
    ('history', (bytes(8), 100)), ('iterator_start', (None, None)), ('pack', (1.0, True))])
def test_others_go_on_during_a_slow_call(new_server, wire, name, args):
    """L5, L6: loads and commits, also of the same client; the slow reply comes when it is done."""
    storage = Slow()
    server = new_server({'1': storage})
    client, other = wire(server).register(), wire(server).register()
    client.send(pickle.dumps((2, False, name, args), 3))
    tid = other.commit(bytes(8))
    assert client.notice() == ('invalidateTransaction', (tid, [bytes(8)]))
    assert client.call('lastTransaction') == tid
    storage.go.set()
    while (message := pickle.loads(client.receive()))[0] != 2:
        assert message[2] == 'info'
    assert storage.thread.startswith('zeo-server-')


class SlowPast(MappingStorage):
    """One whose past takes until `go`."""

    def __init__(self):
        super().__init__()
        self.go = threading.Event()

    def history(self, oid, size):
        assert self.go.wait(20)
        return []


def test_whoever_asks_for_what_is_short_is_answered_beside_many_long_questions(new_server, wire):
    """S14, L11: six clients with ten questions each, and a seventh that iterates."""
    storage = SlowPast()
    server = new_server({'1': storage})
    other = wire(server).register()
    tid = other.commit(bytes(8))
    iterator = other.call('iterator_start', None, None)
    clients = [wire(server).register() for _ in range(6)]
    for client in clients:
        for number in range(2, 12):
            client.send(pickle.dumps((number, False, 'history', (bytes(8), sys.maxsize)), 3))
        client.call('lastTransaction')  # they have arrived
    assert other.call('iterator_next', iterator)[0] == tid
    storage.go.set()
    for client in clients:
        assert [pickle.loads(client.receive())[0] for _ in range(10)] == list(range(2, 12))


def test_a_client_that_vanishes_frees_the_commit_lock(server, wire):
    """L10, C16: over a real connection that is reset."""
    holder, other = wire(server).register(), wire(server).register()
    holder.oneway('tpc_begin', 7, b'', b'', {}, None, ' ')
    holder.call('vote', 7)
    holder.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    holder.socket.close()
    other.oneway('tpc_begin', 7, b'', b'', {}, None, ' ')
    assert other.call('vote', 7) == []


# ---- beginning and end ----------------------------------------------------------------------------

@pytest.fixture
def events(monkeypatch):
    seen = []
    monkeypatch.setattr(ZODB.event, 'notify', seen.append)
    return seen


def test_events_tell_when_it_serves_and_when_it_is_closed(events, new_server):
    server = new_server()
    event, = (event for event in events if isinstance(event, Serving))
    assert (event.server, event.address) == (server, server.addr)
    server.close()
    event, = (event for event in events if isinstance(event, Closed))
    assert event.server is server


def test_close_ends_connections_storages_and_threads_and_may_be_repeated(new_server, wire):
    storage = MappingStorage()
    server = new_server({'1': storage})
    client = wire(server).register()
    threads = lambda: [one.name for one in threading.enumerate() if one.name.startswith('zeo-server')]  # noqa: E731
    assert threads()
    server.close()
    server.close()
    assert client.at_end()
    assert not storage.opened()
    assert threads() == []
    with pytest.raises(ConnectionRefusedError):
        wire(server)


def test_close_aborts_what_is_under_way(new_server, wire):
    storage = MappingStorage()
    server = new_server({'1': storage})
    client = wire(server).register()
    client.oneway('tpc_begin', 7, b'', b'', {}, None, ' ')
    client.call('vote', 7)
    assert storage._transaction is not None
    server.close()
    assert storage._transaction is None


def test_a_server_that_never_ran_can_be_closed():
    StorageServer(('127.0.0.1', 0), {'1': MappingStorage()}).close()


def test_close_works_in_the_loop_thread_too(new_server, wire):
    server = new_server()
    client = wire(server).register()
    server.call_in_loop(server.close)
    assert client.at_end()


def test_stop_makes_loop_return_and_close_does_the_rest():
    server = StorageServer(('127.0.0.1', 0), {'1': MappingStorage()})
    thread = threading.Thread(target=server.loop)
    thread.start()
    server.stop()
    thread.join(20)
    assert not thread.is_alive()
    server.close()


def test_an_address_in_use_leaves_the_storages_open(server):
    storage = MappingStorage()
    with pytest.raises(OSError, match='cannot listen at 127.0.0.1'):
        StorageServer(server.addr, {'1': storage})
    assert storage.opened()
    storage.close()
