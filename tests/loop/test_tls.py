"""TLS over a pair of sockets: no loop, no server."""
from __future__ import annotations

import contextlib
import socket
import ssl

import pytest

from tests.support.certificates import make_certificates
from zeo_clone.loop.runtime import REAL
from zeo_clone.loop.tls import ENCRYPT_SIZE, TLSTransport, check_client, is_fault


@pytest.fixture(scope='module')
def directory(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp('certificates'))


def context_of(directory, protocol, certificate, authority='ca.pem'):
    context = ssl.SSLContext(protocol)
    if certificate is not None:
        context.load_cert_chain(directory / certificate)
    context.load_verify_locations(directory / authority)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.fixture
def make(directory, pair):
    """``make(certificate=, authority=)``: a client with these, and a server, over a pair of sockets."""
    def make(certificate='client.pem', authority='ca.pem'):
        server = TLSTransport(pair[1], REAL, context_of(directory, ssl.PROTOCOL_TLS_SERVER, 'server.pem'),
                              server_side=True)
        context = context_of(directory, ssl.PROTOCOL_TLS_CLIENT, certificate, authority)
        client = TLSTransport(pair[0], REAL, context, server_side=False, server_hostname='localhost')
        return client, server
    return make


def received(transport):
    """What comes next; None if there is nothing yet."""
    try:
        return transport.receive()
    except BlockingIOError:
        return None


def shake(client, server):
    """Until both are established; what the server has received at the end."""
    found = None
    while not (client.established and server.established):
        assert received(client) is None
        assert found is None
        found = received(server)
    return found


def read(transport, size, other=None):
    """`size` bytes; meanwhile the `other` end sends what it has."""
    pieces = b''
    while len(pieces) < size:
        if other is not None:
            other.flush()
        if REAL.wait(transport.socket.fileno(), True, False, 0):
            pieces += received(transport) or b''
    return pieces


def test_what_is_sent_early_comes_after_the_handshake_in_order(make):
    """S6: nothing leaves in plain text."""
    client, server = make()
    client.send(b'one ')
    client.write(b'two')
    assert not client.established
    assert client.queued == 0
    assert (shake(client, server) or read(server, 7)) == b'one two'
    server.send(b'three')
    assert read(client, 5) == b'three'


def test_more_than_is_encrypted_at_once_arrives_whole(make):
    """S6."""
    client, server = make()
    shake(client, server)
    message = bytes(range(256)) * (ENCRYPT_SIZE // 256 + 1)
    client.send(message)
    assert client.queued > 0  # more than a socket takes
    assert read(server, len(message), client) == message
    assert client.queued == 0


def test_the_end_comes_after_what_was_said_before(make):
    """S6."""
    client, server = make()
    shake(client, server)
    client.send(b'last words')
    client.socket.shutdown(socket.SHUT_WR)
    assert read(server, 10) == b'last words'
    assert server.receive() == b''


def test_an_end_that_tls_tells_is_an_end(directory, pair):
    """S6: a close_notify, as other programs send it."""
    server = TLSTransport(pair[1], REAL, context_of(directory, ssl.PROTOCOL_TLS_SERVER, 'server.pem'),
                          server_side=True)
    context = context_of(directory, ssl.PROTOCOL_TLS_CLIENT, 'client.pem')
    client = context.wrap_socket(pair[0], server_hostname='localhost', do_handshake_on_connect=False)
    while not server.established:
        with contextlib.suppress(ssl.SSLWantReadError):
            client.do_handshake()
        assert received(server) is None
    with contextlib.suppress(ssl.SSLWantReadError):
        client.unwrap()
    assert server.receive() == b''
    client.close()


@pytest.mark.parametrize(('certificate', 'authority', 'at', 'match'), [
    ('client.pem', 'stranger.pem', 'client', 'self.signed|unable to get|verify failed'),
    ('stranger.pem', 'ca.pem', 'server', 'verify failed'),
    (None, 'ca.pem', 'server', 'PEER_DID_NOT_RETURN_A_CERTIFICATE|peer did not return'),
])
def test_who_is_not_trusted_learns_it(make, certificate, authority, at, match):
    """S6: the side that refuses tells why; the other one gets an alert."""
    client, server = make(certificate, authority)
    first, second = (client, server) if at == 'client' else (server, client)
    with pytest.raises(ssl.SSLError, match=match) as refusal:
        for _ in range(10):
            received(second)
            received(first)
    assert is_fault(refusal.value)
    with pytest.raises(ssl.SSLError, match='(?i)alert'):
        for _ in range(10):
            received(second)


@pytest.mark.parametrize(('said', 'match'), [
    (b'GET / HTTP/1.0\r\n\r\n', 'does not seem to speak TLS'),
    (b'\0\0\0\x04Z309', 'does not seem to speak TLS'),
    (None, 'closed the connection during the TLS handshake'),
])
@pytest.mark.parametrize('gone', [False, True])
def test_a_peer_without_tls_is_told_as_such(directory, pair, said, match, gone):
    """S6: also when the alert that tells it cannot be sent any more."""
    server = TLSTransport(pair[1], REAL, context_of(directory, ssl.PROTOCOL_TLS_SERVER, 'server.pem'),
                          server_side=True)
    if said is not None:
        pair[0].send(said)
    if said is None or gone:
        pair[0].close()
    with pytest.raises(ssl.SSLError, match=match) as error:
        for _ in range(10):
            received(server)
    assert is_fault(error.value) == (said is not None)


def test_a_context_of_a_client_is_tried_before_it_is_used(directory):
    """S6: as soon as a storage is made, not when it connects."""
    check_client(context_of(directory, ssl.PROTOCOL_TLS_CLIENT, 'client.pem'), 'localhost')
    for context, name in [(context_of(directory, ssl.PROTOCOL_TLS_SERVER, 'server.pem'), 'localhost'),
                          (context_of(directory, ssl.PROTOCOL_TLS_CLIENT, None), 5), (object(), 'localhost')]:
        with pytest.raises(ValueError, match='.'):
            check_client(context, name)


def test_a_hang_up_is_no_fault():
    assert is_fault(ssl.SSLError(1, 'bad'))
    assert not is_fault(ssl.SSLEOFError(8, 'end'))
    assert not is_fault(ConnectionResetError())
