from __future__ import annotations

import errno
import socket

import pytest

from zeo_clone.loop.runtime import AF_INET, AF_INET6, AF_UNIX, IN_PROGRESS, REAL, Endpoint

ANYWHERE = Endpoint(AF_INET, ('127.0.0.1', 0))


@pytest.mark.parametrize(('endpoint', 'text'), [
    (Endpoint(AF_INET, ('127.0.0.1', 9100)), '127.0.0.1:9100'),
    (Endpoint(AF_INET6, ('::1', 9100, 0, 0)), '[::1]:9100'),
    (Endpoint(AF_UNIX, '/run/zeo.sock'), '/run/zeo.sock'),
])
def test_endpoint_reads_like_an_address(endpoint, text):
    assert str(endpoint) == text


def test_resolving_gives_each_address_once():
    assert REAL.resolve('127.0.0.1', 9100) == [Endpoint(AF_INET, ('127.0.0.1', 9100))]
    passive = REAL.resolve(None, 9100, passive=True)
    assert len(passive) == len(set(passive)) >= 1


def test_sockets_do_not_block_and_do_not_delay_small_packets():
    with REAL.listen(ANYWHERE) as listener, REAL.socket(AF_INET) as caller:
        assert not listener.getblocking()
        assert not caller.getblocking()
        assert caller.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        error = caller.connect_ex(listener.getsockname())
        assert error == 0 or error in IN_PROGRESS
        assert REAL.wait(listener.fileno(), True, False, None)
        guest, _ = listener.accept()
        with guest:
            REAL.tune(guest)
            assert guest.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert guest.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert REAL.wait(caller.fileno(), False, True, None)
        assert REAL.connect_error(caller) == 0


def test_connect_that_was_refused_leaves_its_error():
    with REAL.listen(ANYWHERE) as listener:
        address = listener.getsockname()
    with REAL.socket(AF_INET) as caller:
        error = caller.connect_ex(address)
        if error in IN_PROGRESS:
            REAL.wait(caller.fileno(), False, True, None)
            error = REAL.connect_error(caller)
        assert error == errno.ECONNREFUSED


def test_port_in_use_is_an_error_and_leaves_no_socket():
    with REAL.listen(ANYWHERE) as listener, pytest.raises(OSError, match='in use'):
        REAL.listen(Endpoint(AF_INET, listener.getsockname()))


def test_wait_says_whether_anything_came(pair):
    ours, theirs = pair
    assert not REAL.wait(ours.fileno(), True, False, 0)
    theirs.send(b'x')
    assert REAL.wait(ours.fileno(), True, False, None)


def test_temporary_file_has_no_name_left(tmp_path):
    with REAL.temporary_file(str(tmp_path)) as file:
        file.write(b'abc')
        file.seek(0)
        assert file.read() == b'abc'
        assert list(tmp_path.iterdir()) == []
