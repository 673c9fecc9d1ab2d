"""Servers that tools meet: mute ones, wrong ones, ones with TLS."""
from __future__ import annotations

import contextlib
import socket
import ssl
import threading

import pytest

from tests.support.certificates import make_certificates


@pytest.fixture(scope='session')
def certificates(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp('certificates'))


@pytest.fixture
def mute_server():
    """The address of a server that accepts connections, in the kernel, and never says anything."""
    with socket.create_server(('127.0.0.1', 0)) as sock:
        yield '127.0.0.1:{1}'.format(*sock.getsockname())


@pytest.fixture
def closed_port():
    """An address at which nobody listens."""
    with socket.create_server(('127.0.0.1', 0)) as sock:
        return '127.0.0.1:{1}'.format(*sock.getsockname())


@pytest.fixture
def saying_server():
    """Start a server that says some bytes to whoever comes, reads on, and hangs up: its address."""
    with contextlib.ExitStack() as stack:

        def start(data):
            listener = stack.enter_context(socket.create_server(('127.0.0.1', 0)))

            def serve():
                sock, _ = listener.accept()
                with sock:
                    sock.sendall(data)
                    sock.shutdown(socket.SHUT_WR)
                    while sock.recv(4096):
                        pass

            thread = threading.Thread(target=serve)
            thread.start()
            stack.callback(thread.join)
            return '127.0.0.1:{1}'.format(*listener.getsockname())

        yield start


@pytest.fixture
def tls_server(new_server, certificates):
    """A StorageServer that lets in only clients with a certificate of the test's authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificates / 'server.pem')
    context.load_verify_locations(certificates / 'ca.pem')
    return new_server(ssl=context)


@pytest.fixture
def tls_options(certificates):
    """Options with which a tool gets into `tls_server`."""
    return ['--ssl-ca', str(certificates / 'ca.pem'), '--ssl-cert', str(certificates / 'client.pem'),
            '--ssl-hostname', 'localhost']
