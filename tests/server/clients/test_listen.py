"""Listening at addresses of all kinds, with real sockets."""
from __future__ import annotations

import errno
import os
import socket

import pytest

from zeo_clone.loop.core import Loop
from zeo_clone.loop.runtime import AF_INET, AF_INET6, REAL, Endpoint, Runtime
from zeo_clone.server.clients import listen
from zeo_clone.server.clients.listen import open_listeners, remove_unix_socket, try_address


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(('::1', 0))
    except OSError:
        return False
    return True


@pytest.fixture
def loop():
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def peers(loop):
    return []


@pytest.fixture
def listen_at(loop, peers):
    def accept(sock, peer):
        peers.append(peer)
        sock.close()
    return lambda address: open_listeners(loop, address, accept)


def connect(loop, peers, family, address):
    with socket.socket(family) as sock:
        sock.connect(address)
        count = len(peers)
        while len(peers) == count:
            loop.turn(10)


def test_port_0_becomes_the_port_that_the_system_chose(loop, peers, listen_at):
    _, (host, port) = listen_at(('127.0.0.1', 0))
    assert host == '127.0.0.1' and port > 0
    connect(loop, peers, socket.AF_INET, ('127.0.0.1', port))
    assert peers[0].startswith('127.0.0.1:')


@pytest.mark.skipif(not has_ipv6(), reason='this machine has no IPv6')
def test_without_a_host_both_families_have_one_port(loop, peers, listen_at):
    """N4."""
    listeners, (host, port) = listen_at((None, 0))
    assert host is None and len(listeners) == 2
    connect(loop, peers, socket.AF_INET, ('127.0.0.1', port))
    connect(loop, peers, socket.AF_INET6, ('::1', port))
    assert [peer.rpartition(':')[0] for peer in peers] == ['127.0.0.1', '[::1]']


class TwoFamilies(Runtime):
    """Resolves everything to 127.0.0.1 and something else; the second listener fails as it is told to."""

    def __init__(self, *errors):
        self.errors = list(errors)

    def resolve(self, host, port, *, passive=False):
        return [Endpoint(AF_INET, ('127.0.0.1', port)), Endpoint(AF_INET6, ('::1', port, 0, 0))]

    def listen(self, endpoint, backlog=1024):
        if endpoint.family == AF_INET6:
            error = self.errors.pop(0)
            if error:
                raise OSError(error, os.strerror(error))
            endpoint = Endpoint(AF_INET, ('127.0.0.1', 0))
        return super().listen(endpoint, backlog)


def open_with(runtime, address):
    loop = Loop(runtime)
    try:
        return open_listeners(loop, address, print)
    finally:
        loop.close()


def test_a_port_that_is_taken_in_the_other_family_is_chosen_anew():
    """N4."""
    runtime = TwoFamilies(errno.EADDRINUSE, errno.EADDRINUSE, 0)
    listeners, _ = open_with(runtime, (None, 0))
    assert len(listeners) == 2 and runtime.errors == []


def test_it_does_not_try_for_ever():
    with pytest.raises(OSError, match='cannot listen at 0: Address already in use'):
        open_with(TwoFamilies(*[errno.EADDRINUSE] * listen.PORT_ATTEMPTS), (None, 0))


def test_a_machine_without_the_other_family_listens_with_one():
    listeners, _ = open_with(TwoFamilies(errno.EAFNOSUPPORT), (None, 0))
    assert len(listeners) == 1


def test_a_port_in_use_is_an_error_that_names_it(listen_at):
    _, (host, port) = listen_at(('127.0.0.1', 0))
    with pytest.raises(OSError, match=f'cannot listen at 127.0.0.1:{port}') as caught:
        listen_at((host, port))
    assert caught.value.errno == errno.EADDRINUSE


def test_a_unix_socket(loop, peers, listen_at, tmp_path):
    path = str(tmp_path / 'socket')
    assert listen_at(path)[1] == path
    connect(loop, peers, socket.AF_UNIX, path)
    assert 'unix' in peers[0]


def test_a_unix_socket_that_a_server_left_behind_is_replaced(loop, peers, listen_at, tmp_path):
    path = str(tmp_path / 'socket')
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
    listen_at(path)
    connect(loop, peers, socket.AF_UNIX, path)


def test_a_unix_socket_with_a_server_is_an_error(listen_at, tmp_path):
    path = str(tmp_path / 'socket')
    listen_at(path)
    with pytest.raises(OSError, match='cannot listen at .+socket: Address already in use') as caught:
        listen_at(path)
    assert caught.value.errno == errno.EADDRINUSE
    assert os.path.exists(path)


def test_a_file_that_is_no_socket_is_left_alone(listen_at, tmp_path):
    path = tmp_path / 'file'
    path.write_text('precious')
    with pytest.raises(OSError, match='is not a socket'):
        listen_at(str(path))
    assert path.read_text() == 'precious'


# ---- before a long wait ----------------------------------------------------------------------------

def test_an_address_can_be_tried(tmp_path):
    """C14: nothing is left of it; what a server left behind does not matter."""
    path = str(tmp_path / 'socket')
    for _ in range(2):
        try_address(REAL, path)
        assert not os.path.exists(path)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
    try_address(REAL, path)
    with socket.create_server(('127.0.0.1', 0)) as sock:
        port = sock.getsockname()[1]
    try_address(REAL, ('127.0.0.1', port))


def test_an_address_where_nobody_could_listen_is_an_error_that_names_it(tmp_path, listen_at):
    """C14: somebody does, something else is there, or it is no path for a socket."""
    path = str(tmp_path / 'socket')
    listen_at(path)
    (tmp_path / 'file').write_text('precious')
    for address, complaint in [(path, 'Address already in use'), (str(tmp_path / 'file'), 'is not a socket'),
                               (str(tmp_path / ('x' * 200)), 'path too long')]:
        with pytest.raises(OSError, match=f'cannot listen at .*{complaint}'):
            try_address(REAL, address)
    _, taken = listen_at(('127.0.0.1', 0))
    with pytest.raises(OSError, match=f'cannot listen at 127.0.0.1:{taken[1]}: Address already in use'):
        try_address(REAL, taken)


def test_a_host_without_any_address_is_an_error(loop):
    class Nowhere(Runtime):
        def resolve(self, host, port, passive=False):
            return []

    with pytest.raises(OSError, match='the host has no address'):
        try_address(Nowhere(), ('db.example', 8100))


def test_a_unix_socket_is_removed_once(tmp_path):
    """T3: whoever was faster has done it."""
    path = str(tmp_path / 'socket')
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
    for address in path, path, ('127.0.0.1', 1):
        remove_unix_socket(REAL, address)
    assert not os.path.exists(path)
