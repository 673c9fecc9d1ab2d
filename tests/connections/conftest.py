"""Fixtures: TLS contexts, servers at each kind of address, clients of them."""
from __future__ import annotations

import ssl

import pytest

from tests.support.certificates import make_certificates


@pytest.fixture(scope='session')
def certificates(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp('certificates'))


class Contexts:
    """TLS contexts of both sides; clients must show a certificate of the same authority."""

    def __init__(self, certificates):
        self._certificates = certificates

    def server(self, certificate='server.pem', authority='ca.pem'):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._certificates / certificate)
        context.load_verify_locations(self._certificates / authority)
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client(self, certificate='client.pem', authority='ca.pem'):
        context = ssl.create_default_context(cafile=str(self._certificates / authority))
        if certificate is not None:
            context.load_cert_chain(self._certificates / certificate)
        return context


@pytest.fixture
def contexts(certificates):
    return Contexts(certificates)
