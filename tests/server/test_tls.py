"""TLS at the server, with real sockets."""
from __future__ import annotations

import logging
import socket
import ssl

import pytest

from tests.server.test_server import Wire
from tests.support.certificates import make_certificates


@pytest.fixture(scope='module')
def certificates(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp('certificates'))


@pytest.fixture
def server(new_server, certificates):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificates / 'ca.pem'))
    context.load_cert_chain(certificates / 'server.pem')
    context.verify_mode = ssl.CERT_REQUIRED
    return new_server(ssl=context)


class TLSWire(Wire):

    def __init__(self, address, context):
        super().__init__(address)
        try:
            self.socket = context.wrap_socket(self.socket, server_hostname='localhost')
        except BaseException:
            self.socket.close()
            raise


@pytest.fixture
def context(certificates):
    context = ssl.create_default_context(cafile=str(certificates / 'ca.pem'))
    context.load_cert_chain(certificates / 'client.pem')
    return context


def test_a_client_with_a_certificate_is_served(server, context):
    """S6."""
    with TLSWire(server.addr, context) as wire:
        wire.register()
        assert wire.call('ping') is None
        wire.oneway('tpc_begin', 7, b'', b'', {}, None, ' ')
        wire.oneway('storea', bytes(8), bytes(8), b'x' * 1_000_000, 7)
        assert wire.call('vote', 7) == []
        tid = wire.call('tpc_finish', 7)
        assert wire.call('loadBefore', bytes(8), b'\x7f' * 8) == (b'x' * 1_000_000, tid, None)


def test_a_client_without_one_is_refused_with_a_line(server, certificates, caplog):
    """S6."""
    context = ssl.create_default_context(cafile=str(certificates / 'ca.pem'))
    with pytest.raises(OSError), TLSWire(server.addr, context) as wire:
        wire.receive()
    server.close()
    line, = (record for record in caplog.records if 'disconnected' in record.message)
    assert line.levelname == 'WARNING' and 'SSL' in line.message


def test_a_tcp_connect_is_not_worth_a_line(server, context, caplog):
    """N9."""
    with caplog.at_level(logging.INFO):
        socket.create_connection(server.addr).close()
        with TLSWire(server.addr, context) as wire:
            wire.register()
            assert not [message for message in caplog.messages if 'connected to storage' not in message]
