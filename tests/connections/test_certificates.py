"""S6: a certificate that is renewed while the server runs."""
from __future__ import annotations

import os

import pytest

from tests.support.certificates import make_certificates
from zeo_clone import zconfig
from zeo_clone.Exceptions import ClientDisconnected


@pytest.fixture
def server(tmp_path, new_server, certificates):
    """A server as configured; its certificate is in tmp_path."""
    (tmp_path / 'server.pem').write_bytes((certificates / 'server.pem').read_bytes())
    path = tmp_path / 'zeo.conf'
    path.write_text(f'<zeo>\naddress 1\n<ssl>\ncertificate {tmp_path}/server.pem\n'
                    f'authenticate {certificates}/ca.pem\n</ssl>\n</zeo>')
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
