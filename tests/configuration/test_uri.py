from __future__ import annotations

import contextlib

import pytest
import ZODB

from tests.support.certificates import make_certificates
from zeo_clone.addresses import format_address
from zeo_clone.configuration import uri


@pytest.fixture
def given(monkeypatch):
    """What ClientStorage would be given for a URI: (address, keywords)."""
    import zeo_clone.ClientStorage as face

    def resolve(text):
        factory, rest = uri.resolve(text)
        assert rest == {}
        with monkeypatch.context() as patch:
            patch.setattr(face, 'ClientStorage', lambda *args, **keywords: (*args, keywords))
            return factory()
    return resolve


@pytest.mark.parametrize(('text', 'address'), [
    ('zeo-clone://localhost:9100', ('localhost', 9100)),
    ('zeo-clone://localhost:9100/', ('localhost', 9100)),
    ('zeo-clone://[::1]:9100/', ('::1', 9100)),
    ('zeo-clone://somewhere', ('somewhere', 9991)),
    ('zeo-clone://:9100', ('localhost', 9100)),
    ('zeo-clone:///run/zeo.sock', '/run/zeo.sock'),
    ('zeo-clone:///run/with%20blank/zeo.sock?', '/run/with blank/zeo.sock'),
])
def test_address_is_host_and_port_or_a_path(given, text, address):
    assert given(text) == (address, {})


def test_keys_of_the_query_are_arguments_of_the_client(given):
    assert given('zeo-clone://h:1/?storage=main&wait_timeout=5&cache_size=5MB&read_only=1&wait=false'
                 '&client_label=me&blob_dir=/blobs&shared_blob_dir=on&debug=1')[1] == {
        'storage': 'main', 'wait_timeout': 5, 'cache_size': 5 << 20, 'read_only': 1, 'wait': 0,
        'client_label': 'me', 'blob_dir': '/blobs', 'shared_blob_dir': 1}
    assert given('zeo-clone://h:1/?wait_for_server_on_startup=0')[1] == {'wait': 0}


def test_other_keys_are_for_the_database():
    assert uri.resolve('zeo-clone://h:1/?storage=a&connection_pool_size=3&database_name=b')[1] == {
        'connection_pool_size': '3', 'database_name': 'b'}


@pytest.mark.parametrize(('text', 'message'), [
    ('zeo://h:1', 'it must begin with zeo-clone://'),
    ('zeo-clone://', 'name zeo-clone://HOST:PORT or zeo-clone:///PATH'),
    ('zeo-clone://h:abc', "'zeo-clone://h:abc': the port is a number from 0 to 65535"),
    ('zeo-clone://h:1/?wait=perhaps', "wait: 'perhaps' is neither a whole number nor true, yes, on, false,"),
    ('zeo-clone://h:1/?cache_size=big', "cache_size: 'big' is not a size: "),
    ('zeo-clone://h:1/?ssl_ca=/no/ca.pem', 'cannot use the TLS files: '),
    ('zeo-clone://h:1/?ssl_crl=/no/crl.pem', 'crl /no/crl.pem: '),
])
def test_mistake_is_named(text, message):
    with pytest.raises(ValueError, match='^bad URI ') as caught:
        uri.resolve(text)
    assert message in str(caught.value)


def test_storage_is_opened_and_with_demostorage_not_changed(server):
    place = format_address(server.addr)
    for query, counts in [('wait_timeout=5', [1, 2]), ('demostorage=1', [3, 3])]:
        for count in counts:
            factory, _ = uri.resolve(f'zeo-clone://{place}/?{query}')
            with contextlib.closing(ZODB.DB(factory())) as db, db.transaction() as conn:
                conn.root()['count'] = found = conn.root().get('count', 0) + 1
            assert found == count


def test_tls_keys_encrypt_the_connection(new_server, tmp_path):
    import ssl
    certificates = make_certificates(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificates / 'server.pem')
    context.load_verify_locations(certificates / 'ca.pem')
    place = format_address(new_server(ssl=context).addr)
    factory, _ = uri.resolve(f'zeo-clone://{place}/?ssl_ca={tmp_path}/ca.pem&ssl_hostname=localhost'
                             f'&ssl_cert={tmp_path}/client.pem')
    with contextlib.closing(factory()) as storage:
        assert storage.is_connected()
