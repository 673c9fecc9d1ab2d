"""N2, N3, N4, N11, N12, N13: finding a server and finding it again, at each kind of address."""
from __future__ import annotations

import socket
import threading
import time

import pytest
import ZODB
from ZODB.Connection import TransactionMetaData
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import ReadOnlyError
from ZODB.utils import z64

from tests.client.fake_server import p64
from tests.support import inside
from zeo_clone.client import search
from zeo_clone.client.storage import ClientStorage
from zeo_clone.client.world import World
from zeo_clone.Exceptions import ClientDisconnected
from zeo_clone.loop.runtime import AF_INET, Endpoint, Runtime


class Place:
    """An address of one kind; `server` and `client` are options for both sides."""

    def __init__(self, address, server=None, client=None):
        self.address = address
        self.server = server or {}
        self.client = client or {}


class Lasting(MappingStorage):
    """A storage that one server after another can serve."""

    def close(self):
        """Nothing is on disk."""


def free_port(host):
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    with socket.socket(family) as sock:
        sock.bind((host, 0))
        return sock.getsockname()[1]


@pytest.fixture(params=['tcp', 'ipv6', 'unix', 'tls', 'unix with tls', 'name'])
def place(request, tmp_path, contexts):
    tls = {'ssl': contexts.server()}, {'ssl': contexts.client(), 'ssl_server_hostname': 'localhost'}
    return {
        'tcp': lambda: Place(('127.0.0.1', free_port('127.0.0.1'))),
        'ipv6': lambda: Place(('::1', free_port('::1'))),
        'unix': lambda: Place(str(tmp_path / 'socket')),
        'tls': lambda: Place(('127.0.0.1', free_port('127.0.0.1')), *tls),
        'unix with tls': lambda: Place(str(tmp_path / 'socket'), *tls),
        'name': lambda: Place(('localhost', free_port('127.0.0.1'))),
    }[request.param]()


def commit(storage, oid):
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.store(oid, z64, b'data', '', meta)
    storage.tpc_vote(meta)
    return storage.tpc_finish(meta)


def test_the_client_is_there_first(place, new_server, client):
    """N2: nobody listens yet; as soon as somebody does, the client connects."""
    storage = client(place.address, wait=False, wait_timeout=20, **place.client)
    pings = []
    thread = threading.Thread(target=lambda: pings.append(storage.ping()))
    thread.start()
    failed = inside.manager(storage)._search._errors
    while not failed:  # at least one attempt has failed
        inside.manager(storage).places.wait(0.1)
    new_server(addr=place.address, **place.server)
    thread.join(20)
    assert pings == [None]
    assert storage.is_connected()


def test_the_client_is_back_after_a_restart(place, new_server, client):
    """N2, C6: within two seconds, which is all the time that the call has, and it can commit."""
    kept = Lasting()
    first = new_server({'1': kept}, place.address, **place.server)
    storage = client(place.address, wait_timeout=2, **place.client)
    commit(storage, p64(1))
    last = storage.lastTransaction()
    first.close()
    new_server({'1': kept}, place.address, **place.server)
    storage.ping()
    assert storage.lastTransaction() == last
    commit(storage, p64(2))


def test_pauses_between_attempts_never_reach_two_seconds():
    """N2: the longest pause, with its jitter, and the time for one attempt."""
    assert search.LONGEST_PAUSE_S * 1.2 < 1.5
    assert search.FIRST_PAUSE_S <= 0.1


class Names(Runtime):
    """Where names are looked up by `resolve`."""

    def __init__(self, resolve):
        self.resolve = resolve


@pytest.fixture
def new_world():
    """Worlds of storages that look up names so; requested before `client`, which closes these."""
    made = []

    def make(resolve):
        made.append(World(Names(resolve)))
        return made[-1]

    yield make
    for world in made:
        world.close()


def test_every_address_of_a_name_is_tried_and_names_are_resolved_anew(server, new_world, client):
    """N3: the first two addresses are dead; at the first attempt the name has nothing else."""
    dead = [Endpoint(AF_INET, ('127.0.0.1', free_port('127.0.0.1'))) for _ in range(2)]
    asked = []

    def resolve(host, port):
        asked.append((host, port))
        return dead if len(asked) == 1 else [*dead, Endpoint(AF_INET, server.addr)]

    storage = client(('db.example', 1234), wait_timeout=20, world=new_world(resolve))
    storage.ping()
    assert asked == [('db.example', 1234)] * 2


def test_an_address_in_numbers_needs_no_name_server(server, new_world, client):
    """N3: nor the thread that would wait for one."""
    def resolve(host, port):
        raise AssertionError('asked for')

    client(server.addr, wait_timeout=20, world=new_world(resolve)).ping()


def test_a_name_that_is_unknown_is_in_the_exception(new_world, client):
    """N13."""
    def resolve(host, port):
        raise socket.gaierror(-2, 'Name or service not known')

    with pytest.raises(ClientDisconnected, match=r'db\.example:1234: gaierror: .*not known'):
        client(('db.example', 1234), wait_timeout=0.1, world=new_world(resolve))


def test_without_a_host_both_families_have_one_port(new_server, client):
    """N4: also with port 0."""
    server = new_server(addr=(None, 0))
    port = server.addr[1]
    for address in [('127.0.0.1', port), ('::1', port), port]:
        client(address).ping()


def test_what_listens_there_is_no_zeo_server(client):
    """N13: each kind of stranger is told apart."""
    greetings = {b'HTTP/1.1 400 Bad Request\r\n': 'HTTP', b'SSH-2.0-OpenSSH\r\n': 'SSH',
                 b'\0\0\0\2Z4': "speaks 'Z4' only", b'\0\0\0\2M5': 'msgpack'}
    for greeting, expected in greetings.items():
        listener = socket.create_server(('127.0.0.1', 0))
        connections = []

        def serve(listener=listener, greeting=greeting, connections=connections):
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                connections.append(sock)
                sock.sendall(greeting)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(ClientDisconnected, match=expected):
            client(listener.getsockname(), wait_timeout=0.2)
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for sock in connections:
            sock.close()


def test_a_missing_unix_socket_is_named(client, tmp_path):
    """N13."""
    with pytest.raises(ClientDisconnected, match='none.*No such file'):
        client(str(tmp_path / 'none'), wait_timeout=0.1)


def test_read_only_fallback_and_back(new_server, client, monkeypatch):
    """N11: read-write down -> read-only; up again -> writes work; isReadOnly() right at each step."""
    monkeypatch.setattr(search, 'UPGRADE_PAUSE_S', 0.05)
    kept = Lasting()
    writable = new_server({'1': kept})
    address = '127.0.0.1', free_port('127.0.0.1')
    storage = client([writable.addr, address], read_only_fallback=True, wait_timeout=20)
    commit(storage, p64(1))
    new_server({'1': kept}, address, read_only=True)
    assert not storage.isReadOnly()
    writable.close()
    storage.ping()
    assert storage.isReadOnly()
    assert str(address[1]) in storage.sortKey()
    with pytest.raises(ReadOnlyError):
        storage.new_oid()
    new_server({'1': kept}, writable.addr)
    deadline = time.monotonic() + 20
    while not storage.is_connected() or storage.isReadOnly():
        assert time.monotonic() < deadline
        storage.ping()
    commit(storage, p64(2))


@pytest.mark.parametrize('threads', [1, 3])
def test_close_while_it_searches(threads):
    """N12: from several threads at once, with a call that waits; nothing is left."""
    storage = ClientStorage(('127.0.0.1', free_port('127.0.0.1')), wait=False, wait_timeout=20)
    errors = []

    def ping():
        try:
            storage.ping()
        except ClientDisconnected as error:
            errors.append(str(error))

    waiting = threading.Thread(target=ping)
    waiting.start()
    closing = [threading.Thread(target=storage.close) for _ in range(threads)]
    for thread in closing:
        thread.start()
    for thread in [*closing, waiting]:
        thread.join(20)
        assert not thread.is_alive()
    assert errors == ['the storage is closed']


def test_a_server_that_comes_and_goes_does_not_fill_the_log(new_server, client, caplog):
    """N15: the first loss is told, the others are counted."""
    server = new_server()
    storage = client(server.addr)
    for _ in range(20):
        link = inside.manager(storage).link(20)
        for session in list(inside.sessions(server)):
            server.call_in_loop(lambda session=session: session.disconnect('test'))
        assert link.channel.buried.wait(20)
    lines = [record for record in caplog.records
             if record.name.startswith('zeo_clone.client') and 'was lost' in record.message]
    assert len(lines) == 1


def test_a_db_survives_many_losses(new_server, client):
    """C6: each time the next transaction sees all."""
    server = new_server()
    db = ZODB.DB(client(server.addr))
    other = ZODB.DB(client(server.addr))
    for number in range(10):
        with other.transaction() as connection:
            connection.root()['n'] = number
        link = inside.link(db.storage)
        link.fail(ClientDisconnected('test'))
        db.storage.ping()
        with db.transaction() as connection:
            assert connection.root()['n'] == number
    db.close()
    other.close()
