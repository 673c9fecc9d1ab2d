"""N5 to N8, S8: limits of a server, over real sockets."""
from __future__ import annotations

import logging
import os
import resource
import socket
import stat
import threading

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.MappingStorage import MappingStorage
from ZODB.utils import maxtid

from tests.client.fake_server import p64
from tests.connections.test_finding import commit
from tests.support import inside
from zeo_clone.client.storage import ClientStorage
from zeo_clone.configuration import zconfig
from zeo_clone.Exceptions import ClientDisconnected
from zeo_clone.server.clients.limits import LEAST_OUTPUT
from zeo_clone.StorageServer import StorageServer
from zeo_clone.zrpc.channel import server as server_channel
from zeo_clone.zrpc.channel.calls import Joinable


def test_too_many_open_files_do_not_stop_the_acceptor(server_process):
    """N5: EMFILE for real, in a process of its own: it complains once, and serves again afterwards."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir(f'/proc/{server_process.pid}/fd'))
    resource.prlimit(server_process.pid, resource.RLIMIT_NOFILE, (used + 2, hard))
    sockets = [socket.create_connection(server_process.address) for _ in range(6)]
    sockets[0].settimeout(20)
    sockets[1].settimeout(20)
    assert sockets[0].recv(6) == sockets[1].recv(6) == b'\0\0\0\2Z5'
    for sock in sockets:
        sock.close()
    with_room = ClientStorage(server_process.address, wait_timeout=20)
    with_room.ping()
    with_room.close()
    assert 'cannot accept a connection' in server_process.log()


def test_connections_have_a_limit(new_server, client, caplog):
    """N6: one more is refused, with a line; when one has gone there is room again."""
    server = new_server(max_connections=2)
    first, second = client(server.addr), client(server.addr)
    with pytest.raises(ClientDisconnected):
        client(server.addr, wait_timeout=0.3)
    lines = [record for record in caplog.records if 'connections already' in record.message
             and record.levelno >= logging.WARNING]
    assert len(lines) == 1  # N15
    first.close()
    client(server.addr, wait_timeout=20).ping()
    second.ping()


def test_a_silent_peer_is_dropped(new_server):
    """N6."""
    server = new_server(handshake_timeout_s=0.05)
    with socket.create_connection(server.addr) as sock:
        sock.settimeout(20)
        assert sock.recv(100) == b'\0\0\0\2Z5'
        assert sock.recv(100) == b''


def test_a_message_above_the_frame_limit(new_server, client, caplog):
    """N7: from a client that does not know the limit: the connection is closed with a line; others go on."""
    server = new_server(frame_limit=100_000)
    storage = client(server.addr)
    inside.link(storage).channel.core.send_limit = 1 << 30
    other = client(server.addr)
    meta = TransactionMetaData()
    with pytest.raises(ClientDisconnected):
        storage.tpc_begin(meta)
        storage.store(p64(1), bytes(8), b'x' * 200_000, '', meta)
        storage.tpc_vote(meta)
    storage.tpc_abort(meta)
    other.ping()  # by then the server has said it
    assert 'the limit is 100000 (frame-limit)' in caplog.text
    commit(storage, p64(1))


def test_a_client_that_does_not_read_is_closed(new_server, client, caplog):
    """N8: above the output limit, invalidations included; the others are served meanwhile."""
    server = new_server(output_limit=32 << 20)
    lazy = client(server.addr, io_thread=False)  # nobody turns its loop
    writer = client(server.addr)
    gone = threading.Event()
    forget = server.forget
    server.forget = lambda session: (forget(session), gone.set())
    session = next(iter(inside.sessions(server)))
    session.channel.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    oids = [p64(n) for n in range(60_000)]
    notice = session.channel.core.send_oneway('invalidateTransaction', (p64(1), oids))
    for _ in range(80):
        server.call_in_loop(lambda: session.member.send(notice))
    assert gone.wait(20)
    assert 'it does not read' in caplog.text
    commit(writer, p64(1))
    lazy.close()


def test_a_client_that_does_not_read_is_closed_under_tls_too(new_server, client, contexts, caplog):
    """N8: what waits is encrypted already; it counts all the same, and others are served meanwhile."""
    server = new_server(output_limit=32 << 20, ssl=contexts.server())
    options = {'ssl': contexts.client(), 'ssl_server_hostname': 'localhost'}
    lazy = client(server.addr, io_thread=False, **options)
    session = next(iter(inside.sessions(server)))
    writer = client(server.addr, **options)
    gone = threading.Event()
    forget = server.forget
    server.forget = lambda session: (forget(session), gone.set())
    session.channel.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    oids = [p64(n) for n in range(60_000)]
    notice = session.channel.core.send_oneway('invalidateTransaction', (p64(1), oids))
    for _ in range(80):
        server.call_in_loop(lambda: session.member.send(notice))
    assert gone.wait(20)
    assert session not in inside.sessions(server)
    assert 'it does not read' in caplog.text
    commit(writer, p64(1))
    lazy.close()


class Answer(Joinable):
    """To a load."""

    def take(self, value):
        self.value = value


def await_pause(server, session):
    """So much waits for the client that nothing more is processed for it."""
    paused = threading.Event()

    def look():
        if session.channel._paused:
            paused.set()
        else:
            inside.loop(server).call_later(0.001, look)

    server.call_in_loop(look)
    assert paused.wait(20)


def test_a_slow_reader_under_tls_gets_everything(new_server, client, contexts, monkeypatch):
    """N8: above the high-water mark nothing more is processed for it, and it goes on when it reads."""
    monkeypatch.setattr(server_channel, 'HIGH_WATER', 1 << 18)
    monkeypatch.setattr(server_channel, 'LOW_WATER', 1 << 16)
    server = new_server(ssl=contexts.server())
    options = {'ssl': contexts.client(), 'ssl_server_hostname': 'localhost', 'cache_size': 0}
    writer = client(server.addr, **options)
    meta = TransactionMetaData()
    writer.tpc_begin(meta)
    writer.store(p64(1), bytes(8), b'x' * 100_000, '', meta)
    writer.tpc_vote(meta)
    tid = writer.tpc_finish(meta)
    before = set(inside.sessions(server))
    slow = client(server.addr, io_thread=False, **options)
    session, = set(inside.sessions(server)) - before
    session.channel.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32768)
    link = inside.link(slow)
    calls = [Answer() for _ in range(50)]
    link.channel.send_loads([link.channel.start_load(p64(1), maxtid, call) for call in calls])
    await_pause(server, session)
    assert session.channel.queued < 1 << 20  # of 5 MB
    writer.ping()
    link.channel.join(calls[-1])
    assert [call.value for call in calls] == [(b'x' * 100_000, tid, None)] * 50


@pytest.mark.parametrize('name, least', [('memory_limit', '1MB'), ('output_limit', '32MB')])
def test_limits_that_are_too_small_are_refused(name, least):
    """S12, N8: as in a configuration."""
    with pytest.raises(ValueError, match=f'^{name}=10 is less than the least, {least}$'):
        StorageServer(('127.0.0.1', 0), {}, **{name: 10})


def test_the_least_output_limit_is_enough_for_who_reads(new_server, client, monkeypatch):
    """N8: two answers of one turn wait that are just not large enough to count apart."""
    monkeypatch.setattr(server_channel, 'TURN_S', 60)
    storage, data = MappingStorage(), b'x' * (server_channel.HIGH_WATER - 1000)
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.store(p64(1), bytes(8), data, '', meta)
    storage.tpc_vote(meta)
    storage.tpc_finish(meta)
    server = new_server({'1': storage}, output_limit=LEAST_OUTPUT)
    slow = client(server.addr, io_thread=False, cache_size=0)
    session, = inside.sessions(server)
    session.channel.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    channel = inside.link(slow).channel
    channel.send_loads([channel.start_load(p64(1), maxtid, Answer()) for _ in range(3)])
    await_pause(server, session)
    assert session.channel.queued > LEAST_OUTPUT * 0.9
    assert session in inside.sessions(server)


def test_limits_can_be_configured(tmp_path):
    """N6, N7, N8, S8: keys of ``<zeo>``; without them the defaults of StorageServer."""
    path = tmp_path / 'zeo.conf'
    path.write_text('<zeo>\naddress 1\nmax-connections 50\nhandshake-timeout 5\nframe-limit 1MB\n'
                    'output-limit 64MB\nsocket-mode 660\n</zeo>')
    options = zconfig.load(str(path)).zeo.options
    assert {key: options[key] for key in ('max_connections', 'handshake_timeout_s', 'frame_limit',
                                          'output_limit', 'socket_mode')} == {
        'max_connections': 50, 'handshake_timeout_s': 5, 'frame_limit': 1 << 20,
        'output_limit': 64 << 20, 'socket_mode': 0o660}
    path.write_text('<zeo>\naddress 1\n</zeo>')
    options = zconfig.load(str(path)).zeo.options
    defaults = StorageServer.__init__.__kwdefaults__
    for key in ('max_connections', 'handshake_timeout_s', 'frame_limit', 'output_limit', 'socket_mode'):
        assert options[key] == defaults[key]


@pytest.mark.parametrize('text', ['999', 'rw', '1000', '-1'])
def test_permissions_that_are_none(text):
    with pytest.raises(ValueError, match='no permissions'):
        zconfig.octal(text)


@pytest.mark.parametrize('mode', [0o600, 0o666])
def test_a_unix_socket_has_the_mode_that_was_asked_for(tmp_path, new_server, client, mode):
    """S8."""
    path = str(tmp_path / 'socket')
    new_server({'1': MappingStorage()}, path, socket_mode=mode)
    assert stat.S_IMODE(os.stat(path).st_mode) == mode
    client(path).ping()


def test_who_connects_to_a_unix_socket_is_in_the_log(tmp_path, new_server, client, caplog):
    """S8."""
    caplog.set_level(logging.INFO)
    path = str(tmp_path / 'socket')
    new_server({'1': MappingStorage()}, path)
    client(path).ping()
    assert f'unix socket, pid {os.getpid()}, uid {os.getuid()}: connected to storage' in caplog.text
