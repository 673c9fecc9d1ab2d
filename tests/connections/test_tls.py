"""S6: TLS from a ClientStorage to a StorageServer and back."""
from __future__ import annotations

import logging
import ssl
import subprocess
import sys
import threading

import pytest
import ZODB
from ZODB.blob import Blob
from ZODB.FileStorage import FileStorage
from ZODB.POSException import ConflictError
from ZODB.utils import maxtid, z64

from tests.support.json_process import child_environment
from tests.support.server_process import package_path
from zeo_clone.Exceptions import ClientDisconnected


def by_name(server):
    return 'localhost', server.addr[1]


@pytest.fixture
def tls_server(new_server, contexts):
    return new_server(ssl=contexts.server())


@pytest.fixture
def tls_client(tls_server, client, contexts):
    """Make clients of it."""
    def connect(certificate='client.pem', authority='ca.pem', **options):
        options.setdefault('ssl_server_hostname', 'localhost')
        return client(tls_server.addr, ssl=contexts.client(certificate, authority), **options)
    return connect


def test_commits_and_loads(tls_client):
    """S6: the whole way, with a record that is many TLS records long."""
    db = ZODB.DB(tls_client())
    big = 'x' * 3_000_000
    with db.transaction() as connection:
        connection.root()['big'] = big
    with db.transaction() as connection:
        connection.root()['more'] = 1
    other = ZODB.DB(tls_client(cache_size=0))
    with other.transaction() as connection:
        assert connection.root()['big'] == big
        assert connection.root()['more'] == 1
    db.close()
    other.close()


def test_the_host_name_is_checked(new_server, contexts, client):
    """S6: without ssl_server_hostname the host of the address counts."""
    server = new_server(addr=('localhost', 0), ssl=contexts.server())
    client(by_name(server), ssl=contexts.client()).ping()
    with pytest.raises(ClientDisconnected, match='certificate verify failed.*other.example'):
        client(by_name(server), ssl=contexts.client(), ssl_server_hostname='other.example',
               wait_timeout=2)


def test_blobs(tmp_path, new_server, contexts, client):
    """S6: blobs go up in chunks and come down in chunks."""
    storage = FileStorage(str(tmp_path / 'Data.fs'), blob_dir=str(tmp_path / 'blobs'))
    server = new_server({'1': storage}, ssl=contexts.server())
    content = bytes(range(256)) * 4_000
    options = {'ssl': contexts.client(), 'ssl_server_hostname': 'localhost'}
    db = ZODB.DB(client(server.addr, blob_dir=str(tmp_path / 'a'), **options))
    with db.transaction() as connection:
        connection.root()['blob'] = Blob(content)
    other = ZODB.DB(client(server.addr, blob_dir=str(tmp_path / 'b'), **options))
    with other.transaction() as connection, connection.root()['blob'].open() as file:
        assert file.read() == content
    db.close()
    other.close()


def test_a_certificate_of_a_stranger_is_refused(tls_client, contexts):
    """N13, S6: the reason of TLS is in the exception that the user sees."""
    with pytest.raises(ClientDisconnected, match='certificate verify failed'):
        tls_client(authority='stranger.pem', wait_timeout=2)


@pytest.mark.parametrize('certificate', ['stranger.pem', None])
@pytest.mark.parametrize('version', [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_that_is_not_trusted_learns_it(tls_server, client, contexts, caplog, certificate,
                                                version):
    """N13, S6: with TLS 1.3 the refusal comes after the client's side of the handshake has ended."""
    context = contexts.client(certificate)
    context.minimum_version = context.maximum_version = version
    with pytest.raises(ClientDisconnected, match='(?i)unknown.ca|certificate.required|handshake.failure'):
        client(tls_server.addr, ssl=context, ssl_server_hostname='localhost', wait_timeout=2)
    tls_server.close()
    lines = [record.getMessage() for record in caplog.records
             if record.name.startswith('zeo_clone.server') and record.levelno >= logging.WARNING]
    assert lines and all('SSL' in line and '127.0.0.1' in line for line in lines)


def test_plain_text_to_a_tls_port(new_server, client, contexts, caplog):
    """N13: both sides say what may be wrong."""
    patient = new_server(ssl=contexts.server())
    with pytest.raises(ClientDisconnected, match='perhaps it expects TLS'):
        client(patient.addr, wait_timeout=1)  # long enough to be connected, on a busy machine too
    server = new_server(ssl=contexts.server(), handshake_timeout_s=0.1)
    with pytest.raises(ClientDisconnected):
        client(server.addr, wait_timeout=1)
    assert 'perhaps the client does not use TLS' in caplog.text


def test_tls_to_a_plain_port(server, client, contexts, caplog):
    """N13: both sides say what is wrong."""
    with pytest.raises(ClientDisconnected, match='does not seem to speak TLS'):
        client(server.addr, ssl=contexts.client(), ssl_server_hostname='localhost', wait_timeout=2)
    server.close()
    assert 'the peer seems to speak TLS' in caplog.text


class Watched(ssl.SSLObject):
    """A TLS object that finds out whether two threads use it at a time."""

    meetings = 0
    uses = 0
    busy = threading.Lock()

    @classmethod
    def _watch(cls, method, *args):
        free = cls.busy.acquire(blocking=False)
        cls.uses += 1
        cls.meetings += not free
        try:
            return method(*args)
        finally:
            if free:
                cls.busy.release()

    def read(self, *args):
        return self._watch(super().read, *args)

    def write(self, data):
        return self._watch(super().write, data)


def test_no_two_threads_use_a_tls_object_at_a_time(tls_server, client, contexts):
    """Readers and writers of one link, many at a time; all of them get what they asked for."""
    context = contexts.client()
    context.sslobject_class = Watched
    storage = client(tls_server.addr, ssl=context, ssl_server_hostname='localhost', cache_size=0)
    Watched.meetings = Watched.uses = 0
    oids = [storage.new_oid() for _ in range(8)]
    meta = ZODB.Connection.TransactionMetaData()
    storage.tpc_begin(meta)
    for oid in oids:
        storage.store(oid, z64, oid * 5_000, '', meta)
    storage.tpc_vote(meta)
    storage.tpc_finish(meta)
    wrong = []

    def work(oid):
        wrong.extend(1 for _ in range(100) if storage.loadBefore(oid, maxtid)[0] != oid * 5_000)

    threads = [threading.Thread(target=work, args=(oid,)) for oid in oids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert Watched.uses > 1600
    assert Watched.meetings == 0


@pytest.mark.parametrize('address, far', [
    (('127.0.0.1', 0), False), (('::1', 0), False), ((None, 0), True), (('0.0.0.0', 0), True)])
def test_a_server_that_others_reach_without_tls_says_so(new_server, caplog, address, far):
    """Issue: a warning at start if a server listens beyond loopback without TLS."""
    new_server(addr=address)
    assert ('without TLS' in caplog.text) == far


def test_with_tls_there_is_nothing_to_warn_of(new_server, contexts, caplog):
    new_server(addr=(None, 0), ssl=contexts.server())
    assert 'without TLS' not in caplog.text


def test_transactions_of_several_threads(tls_client):
    """Commits of several threads, with a storage each in one process: one I/O thread, several links."""
    dbs = [ZODB.DB(tls_client()) for _ in range(3)]
    with dbs[0].transaction() as connection:
        connection.root()['n'] = 0
    for db in dbs:
        db.storage.ping()  # the invalidation has arrived then

    def add(db):
        done = 0
        while done < 10:
            try:
                with db.transaction() as connection:
                    connection.root()['n'] += 1
            except ConflictError:
                continue
            done += 1

    threads = [threading.Thread(target=add, args=(db,)) for db in dbs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    dbs[0].storage.ping()
    with dbs[0].transaction() as connection:
        total = connection.root()['n']
    for db in dbs:
        db.close()
    assert total == 30


@pytest.mark.parametrize('when', ['it waits', 'it is busy'])
def test_close_while_the_server_is_silent(new_server, client, contexts, when):
    """N12: from another thread, twice, in the middle of a call; the call ends with it."""
    server = new_server(ssl=contexts.server())
    storage = client(server.addr, ssl=contexts.client(), ssl_server_hostname='localhost', cache_size=0)
    asked, errors = threading.Event(), []
    if when == 'it waits':
        release = threading.Event()
        server.call_in_loop(lambda: release.wait(20))  # it answers nobody
    else:
        release = None

    def ask():
        try:
            while True:
                asked.set()
                storage.ping()
        except ClientDisconnected as error:
            errors.append(str(error))

    asking = threading.Thread(target=ask)
    asking.start()
    assert asked.wait(20)
    closing = [threading.Thread(target=storage.close) for _ in range(2)]
    for thread in closing:
        thread.start()
    for thread in [*closing, asking]:
        thread.join(20)
        assert not thread.is_alive()
    if release is not None:
        release.set()
    assert len(errors) == 1 and 'closed' in errors[0]
    storage.close()


SCRIPT = """
import ssl, sys, threading, zeo_clone
context = ssl.create_default_context(cafile=sys.argv[1] + '/ca.pem')
context.load_cert_chain(sys.argv[1] + '/client.pem')
storage = zeo_clone.client(('127.0.0.1', int(sys.argv[2])), ssl=context, ssl_server_hostname='localhost')
storage.ping()
if sys.argv[3] == 'close':
    storage.close()
"""


@pytest.mark.parametrize('mode', ['close', 'forget'])
def test_a_script_ends_silently(tls_server, certificates, mode):
    """N12: at the end of the interpreter, with -W error."""
    command = [sys.executable, '-W', 'error', '-c', SCRIPT, certificates, str(tls_server.addr[1]), mode]
    done = subprocess.run(command, env=child_environment(package_path()), capture_output=True, text=True,
                          timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')
