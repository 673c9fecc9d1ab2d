"""S6: certificates that are renewed or revoked while the server runs."""
from __future__ import annotations

import os

import pytest

from tests.support.certificates import make_certificates, revocation_list
from zeo_clone.configuration import zconfig
from zeo_clone.Exceptions import ClientDisconnected


@pytest.fixture
def server(tmp_path, new_server, certificates):
    """A server as configured; its certificate and the list of revoked ones are in tmp_path."""
    (tmp_path / 'server.pem').write_bytes((certificates / 'server.pem').read_bytes())
    (tmp_path / 'crl.pem').write_bytes(revocation_list(certificates))
    path = tmp_path / 'zeo.conf'
    path.write_text(f'<zeo>\naddress 1\n<ssl>\ncertificate {tmp_path}/server.pem\n'
                    f'authenticate {certificates}/ca.pem\ncrl {tmp_path}/crl.pem\n</ssl>\n</zeo>')
    return new_server(ssl=zconfig.load(str(path)).zeo.options['ssl'])


def replace(path, content):
    part = path.with_suffix('.new')
    part.write_bytes(content)
    os.replace(part, path)


def test_a_renewed_certificate_is_used_at_the_next_connection(server, client, contexts, tmp_path,
                                                              tmp_path_factory):
    """Issue: without a restart.  The new one is by another authority, so one can tell them apart."""
    options = {'ssl_server_hostname': 'localhost', 'wait_timeout': 0.5}
    old = client(server.addr, ssl=contexts.client(), **options)
    other = make_certificates(tmp_path_factory.mktemp('other'))
    replace(tmp_path / 'server.pem', (other / 'server.pem').read_bytes())
    with pytest.raises(ClientDisconnected, match='certificate verify failed'):
        client(server.addr, ssl=contexts.client(), **options)
    context = contexts.client()
    context.load_verify_locations(other / 'ca.pem')
    client(server.addr, ssl=context, **options).ping()
    old.ping()  # present connections go on


def test_a_bad_renewal_leaves_the_old_certificate_in_use(server, client, contexts, tmp_path, caplog):
    replace(tmp_path / 'server.pem', b'nonsense')
    for _ in range(2):
        client(server.addr, ssl=contexts.client(), ssl_server_hostname='localhost').ping()
    lines = [message for message in caplog.messages if 'stays in use' in message]
    assert len(lines) == 1


def test_a_revoked_client_is_refused_at_its_next_connection(server, client, contexts, certificates, tmp_path,
                                                            caplog):
    """S6: both sides learn why, and others are let in."""
    options = {'ssl_server_hostname': 'localhost', 'wait_timeout': 0.5}
    client(server.addr, ssl=contexts.client(), **options).ping()
    replace(tmp_path / 'crl.pem', revocation_list(certificates, 'client.pem'))
    with pytest.raises(ClientDisconnected, match='(?i)certificate.revoked'):
        client(server.addr, ssl=contexts.client(), **options)
    client(server.addr, ssl=contexts.client('server.pem'), **options).ping()
    server.close()
    assert 'certificate revoked' in caplog.text
