"""S6: TLS as the ``<ssl>`` sections set it up, tried out in memory, without any socket."""
from __future__ import annotations

import datetime
import io
import shutil
import ssl
import subprocess

import pytest
import trustme
import ZConfig
import ZODB.config
from cryptography.hazmat.primitives import serialization

from tests.support.certificates import make_certificates, revocation_list
from zeo_clone import troubles
from zeo_clone.configuration import zconfig
from zeo_clone.configuration.tlsfiles import TLSFiles


def password():
    return 'sesame'


@pytest.fixture(scope='session')
def certificates(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp('certificates'))


def shake_hands(server, client, host='localhost', session=None):
    """A TLS handshake in memory; raises ``ssl.SSLError`` of whoever refuses first.  The client's end."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    end_of_client = client.wrap_bio(to_client, to_server, server_hostname=host, session=session)
    ends = [end_of_client, server.wrap_bio(to_server, to_client, server_side=True)]
    for _ in range(10):
        for end in list(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            ends.remove(end)
        if not ends:
            return end_of_client
    raise AssertionError('the handshake does not end')


@pytest.fixture
def ssl_section(certificates):
    """The text of an ``<ssl>`` section; names of certificates stand for their files, None for no key."""
    def make(keys):
        lines = [f"{key.replace('_', '-')} {certificates / value if value.endswith('.pem') else value}\n"
                 for key, value in keys.items() if value is not None]
        return f"<ssl>\n{''.join(lines)}</ssl>"
    return make


@pytest.fixture
def server_context(tmp_path, ssl_section):
    """Make the context of a server with the given keys; by default it trusts the authority."""
    def make(**keys):
        section = ssl_section({'certificate': 'server.pem', 'authenticate': 'ca.pem', **keys})
        path = tmp_path / 'zeo.conf'
        path.write_text(f'<zeo>\naddress 1\n{section}\n</zeo>')
        return zconfig.load(str(path)).zeo.options['ssl']
    return make


@pytest.fixture
def client_keywords(ssl_section):
    """The keywords for ClientStorage from the given keys; by default the client trusts the authority."""
    def make(**keys):
        section = ssl_section({'certificate': 'client.pem', 'authenticate': 'ca.pem', **keys})
        file = io.StringIO('%import zeo_clone\n'
                           f'<zodb>\n<clientstorage>\nserver 1\n{section}\n</clientstorage>\n</zodb>')
        configuration, _ = ZConfig.loadConfigFile(ZODB.config.getDbSchema(), file)
        return configuration.database[0].config.storage.keywords
    return make


@pytest.fixture
def client_context(client_keywords):
    return lambda **keys: client_keywords(**keys)['ssl']


@pytest.mark.parametrize(('clients', 'servers'), [('ca.pem', 'ca.pem'), ('client.pem', 'server.pem')])
def test_both_sides_trust_the_authority_or_the_very_certificate(
        server_context, client_context, clients, servers):
    """S6"""
    shake_hands(server_context(authenticate=clients), client_context(authenticate=servers))


def test_directory_of_certificates_is_trusted(server_context, client_context, certificates, tmp_path):
    """S6"""
    (tmp_path / 'clients').mkdir()
    shutil.copy(certificates / 'client.pem', tmp_path / 'clients')
    (tmp_path / 'clients' / 'README').write_text('no certificate')
    shake_hands(server_context(authenticate=str(tmp_path / 'clients')), client_context())


@pytest.mark.parametrize('name', ['{hash}.0', 'client.crt'])
def test_private_keys_beside_trusted_certificates_are_passed_over(
        server_context, client_context, certificates, tmp_path, name):
    """S6: a directory as people have it, with hashed names or without, and a key in it."""
    directory = tmp_path / 'clients'
    directory.mkdir()
    done = subprocess.run(['openssl', 'x509', '-hash', '-noout', '-in', certificates / 'ca.pem'],
                          capture_output=True, text=True, check=True)
    shutil.copy(certificates / 'ca.pem', directory / name.format(hash=done.stdout.strip()))
    shutil.copy(certificates / 'ca.key', directory / 'own.pem')
    context = server_context(authenticate=str(directory))
    shake_hands(context, client_context())
    with pytest.raises(ssl.SSLError):
        shake_hands(context, client_context(certificate='stranger.pem'))


@pytest.mark.parametrize('certificate', [None, 'stranger.pem'])
def test_client_without_a_trusted_certificate_is_refused(server_context, client_context, certificate):
    """S6"""
    with pytest.raises(ssl.SSLError):
        shake_hands(server_context(), client_context(certificate=certificate))


def test_client_refuses_a_server_that_it_does_not_trust(server_context, client_context):
    """S6"""
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(server_context(certificate='stranger.pem'), client_context())


def test_host_name_is_checked_unless_told_otherwise(server_context, client_context):
    """S6"""
    with pytest.raises(ssl.SSLCertVerificationError, match='mismatch'):
        shake_hands(server_context(), client_context(), host='elsewhere.example')
    shake_hands(server_context(), client_context(check_hostname='false'), host='elsewhere.example')


def test_host_name_to_look_for_is_passed_on(client_keywords):
    assert client_keywords(server_hostname='zeo.example')['ssl_server_hostname'] == 'zeo.example'


@pytest.mark.parametrize('authenticate', [None, 'SIGNED', '-'])
def test_without_authenticate_the_systems_authorities_are_trusted(
        server_context, client_context, certificates, monkeypatch, authenticate):
    """S6: SIGNED and - are ZEO's words for that."""
    monkeypatch.setenv('SSL_CERT_FILE', str(certificates / 'ca.pem'))
    server = server_context(authenticate=authenticate)
    shake_hands(server, client_context(authenticate=None))
    with pytest.raises(ssl.SSLError):
        shake_hands(server, client_context(authenticate=None, certificate=None))


def test_revoked_client_is_refused(server_context, client_context, certificates, tmp_path):
    """S6: with TLS 1.3 too, where the client's side has ended by then."""
    (tmp_path / 'list.pem').write_bytes(revocation_list(certificates, 'client.pem'))
    server = server_context(crl=str(tmp_path / 'list.pem'))
    with pytest.raises(ssl.SSLCertVerificationError, match='revoked'):
        shake_hands(server, client_context())
    shake_hands(server, client_context(certificate='server.pem'))


def test_revoked_server_is_refused(server_context, client_context, certificates, tmp_path):
    """S6"""
    (tmp_path / 'lists').mkdir()
    (tmp_path / 'lists' / 'ca.crl').write_bytes(revocation_list(certificates, 'server.pem'))
    client = client_context(crl=str(tmp_path / 'lists'))
    with pytest.raises(ssl.SSLCertVerificationError, match='revoked'):
        shake_hands(server_context(), client)
    shake_hands(server_context(certificate='client.pem'), client)


def test_list_that_is_out_of_date_lets_nobody_in(server_context, client_context, certificates, tmp_path):
    """S6: somebody may keep the new ones away from us."""
    (tmp_path / 'list.pem').write_bytes(revocation_list(certificates, age_days=2))
    with pytest.raises(ssl.SSLCertVerificationError, match='CRL has expired'):
        shake_hands(server_context(crl=str(tmp_path / 'list.pem')), client_context())


def test_revocation_takes_effect_without_a_restart(server_context, client_context, certificates, tmp_path):
    """S6: at the next connection, also of a client that would resume its session."""
    path = tmp_path / 'list.pem'
    path.write_bytes(revocation_list(certificates))
    server, client = server_context(crl=str(path)), client_context()._context
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    session = shake_hands(server, client).session
    assert shake_hands(server, client, session=session).session_reused
    path.write_bytes(revocation_list(certificates, 'client.pem'))
    with pytest.raises(ssl.SSLCertVerificationError, match='revoked'):
        shake_hands(server, client, session=session)
    path.unlink()
    with pytest.raises(ssl.SSLCertVerificationError, match='revoked'):
        shake_hands(server, client)


@pytest.fixture
def locked_key(certificates, tmp_path):
    """A file with the server's key that opens with `password`."""
    key = serialization.load_pem_private_key((certificates / 'server.pem').read_bytes(), None)
    path = tmp_path / 'server.key'
    path.write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(password().encode())))
    return str(path)


def test_password_function_opens_the_key(server_context, client_context, locked_key):
    server = server_context(key=locked_key, password_function=f'{__name__}.password')
    shake_hands(server, client_context())


def test_key_with_a_password_nobody_knows_is_refused_without_asking(server_context, locked_key):
    with pytest.raises(ZConfig.ConfigurationError, match='name a password-function that returns it'):
        server_context(key=locked_key)


@pytest.mark.parametrize(('keys', 'message'), [
    ({'certificate': None}, "the server's <ssl> section needs a certificate"),
    ({'check_hostname': 'true'}, 'check-hostname is for clients'),
    ({'server_hostname': 'localhost'}, 'server-hostname is for clients'),
    ({'certificate': 'ca.pem'}, "/ca.pem holds no private key: name its file as 'key'"),
    ({'key': 'client.pem'}, 'cannot use the TLS files: certificate'),
    ({'certificate': 'empty'}, 'cannot use the TLS files: certificate empty.*Is a directory'),
    ({'authenticate': 'empty'}, 'the directory empty holds no certificates'),
    ({'authenticate': 'keys'}, 'the directory keys holds no certificates'),
    ({'crl': 'empty'}, 'the directory empty holds no revocation lists'),
    ({'crl': 'server.pem'}, 'holds certificates; only revocation lists belong there'),
])
def test_unusable_server_tls_is_refused(server_context, tmp_path, monkeypatch, keys, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'keys').mkdir()
    (tmp_path / 'keys' / 'own.pem').write_text('-----BEGIN PRIVATE KEY-----\n')
    with pytest.raises(ZConfig.ConfigurationError, match=message) as caught:
        server_context(**keys)
    assert str(caught.value).endswith(f'({tmp_path}/zeo.conf)')


# -- when certificates end ------------------------------------------------------------------------------

@pytest.mark.parametrize('year', [2031, 2049, 2050, 2107])
def test_end_of_a_certificate_is_read_in_both_forms_of_a_time(tmp_path, year):
    """Up to 2049 X.509 has years of two digits.  Of a chain the first that ends counts."""
    ends = datetime.datetime(year, 2, 28, 23, 59, 58)
    path = tmp_path / 'own.pem'
    leaf = trustme.CA().issue_cert('localhost', not_after=ends)
    leaf.private_key_and_cert_chain_pem.write_to_path(str(path))
    expected = ends.replace(tzinfo=datetime.timezone.utc).timestamp()
    assert TLSFiles(True, str(path)).expires() == expected
    later = trustme.CA().issue_cert('localhost', not_after=ends + datetime.timedelta(days=1))
    path.write_bytes(later.cert_chain_pems[0].bytes() + path.read_bytes())
    assert TLSFiles(True, str(path)).expires() == expected


def test_end_of_the_servers_certificate_is_told_also_of_a_new_one(new_server, server_context, certificates,
                                                                  tmp_path):
    path = tmp_path / 'own.pem'
    path.write_bytes((certificates / 'server.pem').read_bytes())
    context = server_context(certificate=str(path))
    server = new_server(ssl=context)
    assert server.server_status()['tls_expires'] > 14 * 86400
    soon = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=1)
    leaf = trustme.CA().issue_cert('localhost', not_after=soon.replace(tzinfo=None))
    leaf.private_key_and_cert_chain_pem.write_to_path(str(path))
    context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)
    status = server.server_status()
    assert 0 < status['tls_expires'] <= 86400
    assert [trouble.kind for trouble in troubles.find({'1': status})] == ['tls']


def test_end_is_unknown_without_a_certificate_of_ones_own(new_server):
    assert TLSFiles(False).expires() is None
    assert new_server().server_status()['tls_expires'] is None
