"""N16, N17: several addresses of which some are no good, and addresses that change.

Attempts may take as long as they like here: what succeeds did not wait for the end of one that is mute.
"""
from __future__ import annotations

import itertools
import socket
import threading
import time

import pytest
from ZODB.MappingStorage import MappingStorage

from tests.client.fake_server import FakeServer, Refuse, p64
from tests.connections.test_finding import Lasting, commit, free_port
from tests.support import inside
from zeo_clone.client import attempt, search
from zeo_clone.Exceptions import ClientDisconnected
from zeo_clone.loop import poll
from zeo_clone.loop.runtime import AF_INET, Endpoint, Runtime

OID = p64(7)
FOR_EVER_S = 1e6


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """No attempt is ever given up because of the time that it takes."""
    monkeypatch.setattr(attempt, 'CONNECT_TIMEOUT_S', FOR_EVER_S)


class Mute:
    """Listens and says nothing: ``full`` does not even accept, ``greets`` says the first words."""

    def __init__(self, family, address, how):
        self._listener = socket.socket(family)
        self._listener.bind(address)
        self._listener.listen(0 if how == 'full' else 10)
        self.address = self._listener.getsockname()
        self._connections = []
        if how == 'full':
            filler = socket.socket(family)  # the one place in its queue
            filler.connect(self.address)
            self._connections.append(filler)
        elif how == 'greets':
            self._thread = threading.Thread(target=self._greet)
            self._thread.start()
        self._how = how

    def _greet(self):
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            connection.sendall(b'\0\0\0\2Z5')

    def close(self):
        if self._how == 'greets':
            self._listener.shutdown(socket.SHUT_RDWR)
            self._thread.join()
        for sock in (self._listener, *self._connections):
            sock.close()


@pytest.fixture
def mute(tmp_path):
    made = []

    def make(how='silent', kind='tcp'):
        where = {'tcp': (socket.AF_INET, ('127.0.0.1', 0)),
                 'unix': (socket.AF_UNIX, str(tmp_path / f'mute{len(made)}'))}[kind]
        made.append(Mute(*where, how))
        return made[-1].address

    yield make
    for one in made:
        one.close()


@pytest.fixture
def names(monkeypatch):
    """``names[host]``: endpoints, or an event: until it is set the name is being looked up."""
    known = {}
    looked_up = threading.Condition()
    real = Runtime.resolve

    def resolve(self, host, port, *, passive=False):
        with looked_up:
            known.setdefault('asked', []).append(host)
            looked_up.notify_all()
        found = known.get(host)
        if isinstance(found, threading.Event):
            found.wait()
            found = known[host, 'then']
        return real(self, host, port, passive=passive) if found is None else found

    def wait_for(host):
        with looked_up:
            assert looked_up.wait_for(lambda: host in known.get('asked', ()), 20)

    known['wait_for'] = wait_for
    monkeypatch.setattr(Runtime, 'resolve', resolve)
    yield known
    for event in known.values():
        if isinstance(event, threading.Event):
            event.set()


def go_on_for_a_moment(storage):
    """Let the client connect, or whatever it is at."""
    if storage._options.io_thread:
        inside.manager(storage).places.wait(0.01)
    else:
        poll(0.01)


def tried(storage, *addresses):
    """Wait until there are attempts at all of these."""
    manager, wanted = inside.manager(storage), {f'{host}:{port}' for host, port in addresses}
    while not wanted <= {str(one.target) for one in tuple(manager._search._trying)}:
        go_on_for_a_moment(storage)


def there_is_none(storage, match):
    """Wait until no server is in use and a call would complain of `match`."""
    complaint, deadline = '', time.monotonic() + 20
    while match not in complaint:
        assert time.monotonic() < deadline
        if not storage._options.io_thread:
            poll(0.01)
        try:
            inside.manager(storage).link(0.05)
        except ClientDisconnected as error:
            complaint = str(error)


HOW = ['silent', 'full', 'greets']


@pytest.mark.parametrize('io_thread', [True, False])
@pytest.mark.parametrize('how', HOW)
@pytest.mark.parametrize('mutes', [1, 3])
@pytest.mark.parametrize('place', ['first', 'middle', 'last'])
def test_a_server_that_is_back_is_found_beside_mute_ones(
        new_server, client, mute, how, mutes, place, io_thread):
    """N17, N2: an attempt at it has failed; the others take for ever."""
    kept = Lasting()
    first = new_server({'1': kept})
    addresses = [mute(how) for _ in range(mutes)]
    addresses.insert({'first': 0, 'middle': mutes // 2, 'last': mutes}[place], first.addr)
    storage = client(addresses, wait_timeout=20, io_thread=io_thread)
    commit(storage, OID)
    first.close()
    there_is_none(storage, 'refused')
    new_server({'1': kept}, first.addr)
    storage.ping()
    commit(storage, p64(8))


@pytest.mark.parametrize('order', list(itertools.permutations(['good', 'tcp', 'unix'])), ids='-'.join)
def test_a_unix_socket_that_comes_late_is_found_beside_mute_ones(new_server, client, mute, tmp_path, order):
    """N17: whatever the order, and whatever kind of address the mute ones have."""
    path = str(tmp_path / 'good')
    places = {'good': path, 'tcp': mute(), 'unix': mute('full', 'unix')}
    storage = client([places[name] for name in order], wait=False, wait_timeout=20)
    there_is_none(storage, 'No such file')
    new_server(addr=path)
    storage.ping()


@pytest.mark.parametrize('io_thread', [True, False])
def test_a_name_with_a_mute_address_beside_the_good_one(new_server, client, mute, names, io_thread):
    """N17, N3: the name is looked up again for the one that was refused."""
    address = '127.0.0.1', free_port('127.0.0.1')
    names['db.example'] = [Endpoint(AF_INET, mute()), Endpoint(AF_INET, address)]
    storage = client(('db.example', 1), wait=False, wait_timeout=20, io_thread=io_thread)
    there_is_none(storage, 'refused')
    new_server(addr=address)
    storage.ping()


@pytest.mark.parametrize('io_thread', [True, False])
@pytest.mark.parametrize('first', [True, False])
def test_a_name_that_nobody_can_look_up_delays_nobody(new_server, client, names, first, io_thread):
    """N17: neither the first connection nor a later one."""
    names['slow.example'] = threading.Event()
    names['slow.example', 'then'] = []
    kept = Lasting()
    server = new_server({'1': kept})
    addresses = [('slow.example', 1), server.addr]
    storage = client(addresses if first else addresses[::-1], wait_timeout=20, io_thread=io_thread)
    storage.ping()
    server.close()
    there_is_none(storage, 'slow.example:1: its name is being looked up')
    new_server({'1': kept}, server.addr)
    storage.ping()


def test_a_read_only_fallback_is_found_beside_a_mute_one(new_server, client, mute, monkeypatch):
    """N17, N11: and beside a name that cannot be looked up, after a short while."""
    monkeypatch.setattr(search, 'FALLBACK_PATIENCE_S', 0.1)
    server = new_server({'1': MappingStorage()}, read_only=True)
    storage = client([mute(), server.addr], read_only_fallback=True, wait_timeout=20)
    storage.ping()
    assert storage.isReadOnly()
    assert search.FALLBACK_PATIENCE_S < 1.5


def test_a_writable_server_is_found_again_beside_a_mute_one(new_server, client, mute, monkeypatch):
    """N17, N11: while a read-only one is in use, and attempts at the mute one never end."""
    monkeypatch.setattr(search, 'UPGRADE_PAUSE_S', 0.05)
    monkeypatch.setattr(search, 'FALLBACK_PATIENCE_S', 0.05)
    kept = Lasting()
    address, silent = ('127.0.0.1', free_port('127.0.0.1')), mute()
    new_server_address = new_server({'1': kept}, read_only=True).addr
    storage = client([address, silent, new_server_address], read_only_fallback=True, wait_timeout=20)
    assert storage.isReadOnly()
    tried(storage, silent)
    new_server({'1': kept}, address)
    while storage.isReadOnly():
        inside.manager(storage).places.wait(0.01)
        storage.ping()
    commit(storage, OID)


# ---- new_addr ---------------------------------------------------------------------------------------

@pytest.fixture
def two():
    servers = FakeServer(), FakeServer()
    for number, server in enumerate(servers):
        server.answers['loadBefore'] = (
            lambda connection, oid, tid, number=number: (b'server %d' % number, p64(1), None))
    yield servers
    for server in servers:
        server.close()


def ends_at_the_new_one(storage, old, new):
    """All that is asked after new_addr is asked there."""
    before = len(old.calls)
    storage.new_addr(new.address)
    assert storage.loadBefore(OID, p64(9))[0] == b'server 1'
    assert not old.called('loadBefore')
    old.wait(lambda: not old.connections)
    assert [name for name, _ in old.calls[before:] if name not in ('register', 'heartbeat')] == []
    assert storage.sortKey() == f'1:127.0.0.1:{new.address[1]}'


@pytest.mark.parametrize('io_thread', [True, False])
@pytest.mark.parametrize('late', [True, False], ids=['in time', 'too late'])
def test_new_addr_while_the_name_of_the_old_one_is_looked_up(two, client, names, late, io_thread):
    """N16: whether the answer comes before the new server is found, or after."""
    old, new = two
    names['old.example'] = answer = threading.Event()
    names['old.example', 'then'] = [Endpoint(AF_INET, old.address)]
    addresses = [('old.example', 1), ('127.0.0.1', free_port('127.0.0.1'))]
    storage = client(addresses, wait=False, wait_timeout=20, io_thread=io_thread)
    if not io_thread:
        poll(0)
    names['wait_for']('old.example')
    if not late:
        answer.set()
    storage.new_addr(new.address)
    if late:
        storage.ping()
        answer.set()
    ends_at_the_new_one(storage, old, new)
    assert not old.calls


@pytest.mark.parametrize('io_thread', [True, False])
@pytest.mark.parametrize('held', ['register', 'getInvalidations', 'get_info', None])
def test_new_addr_at_each_step_of_a_connection(two, client, held, io_thread):
    """N16: nothing that goes on at the old server makes it the one in use."""
    old, new = two
    new.tid = old.tid = p64(5)
    storage = client(old.address, wait_timeout=20, io_thread=io_thread)
    storage.ping()
    if held is not None:
        def hold(connection, *args):
            raise Refuse

        old.tid = new.tid = p64(6)
        new.answers['getInvalidations'] = lambda connection, tid: (p64(6), [])
        old.answers['getInvalidations'] = lambda connection, tid: (p64(6), [])
        old.answers[held] = hold
        seen = old.called(held)
        old.client.cut()
        while old.called(held) == seen:
            go_on_for_a_moment(storage)
    ends_at_the_new_one(storage, old, new)


def test_new_addr_while_an_attempt_hangs(two, client, mute):
    """N16: a mute server, which then begins to speak, is not used."""
    _, new = two
    silent = mute()
    storage = client(silent, wait=False, wait_timeout=20)
    tried(storage, silent)
    storage.new_addr(new.address)
    storage.ping()
    assert new.called('ping') == 1
    assert not inside.manager(storage)._search._trying


def test_new_addr_again_and_again(two, client):
    """N16: the last one counts, whatever the loop's thread was just doing."""
    storage = client(two[0].address, wait_timeout=20)
    for number in range(50):
        where = two[number % 2]
        storage.new_addr(where.address)
        if number % 3:
            assert storage.loadBefore(p64(number), p64(9))[0] == b'server %d' % (number % 2)
            assert storage.sortKey() == f'1:127.0.0.1:{where.address[1]}'


def test_new_addr_while_a_better_server_waits_for_the_old_one_to_go(two, client, monkeypatch):
    """N16: the read-write server of before, which has just been found, is not used either."""
    monkeypatch.setattr(search, 'UPGRADE_PAUSE_S', 0.01)
    from ZODB.POSException import ReadOnlyError
    old, new = two
    writable = threading.Event()

    def register(connection, storage, read_only):
        if not (read_only or writable.is_set()):
            raise ReadOnlyError()
        return old.tid

    old.answers['register'] = register
    storage = client(old.address, read_only_fallback=True, wait_timeout=20)
    manager, arrived, go_on = inside.manager(storage), threading.Event(), threading.Event()
    fail = manager.ready.fail

    def slow_fail(error):
        if 'read-write' in str(error):
            arrived.set()
            assert go_on.wait(20)
        fail(error)

    manager.ready.fail = slow_fail
    writable.set()
    assert arrived.wait(20)
    storage.new_addr(new.address)
    go_on.set()
    assert storage.loadBefore(OID, p64(9))[0] == b'server 1'
    assert old.called('get_info') == 1


def test_a_commit_begun_after_new_addr_is_made_at_the_new_server(two, client):
    """N16."""
    old, new = two
    storage = client(old.address, wait_timeout=20)
    commit(storage, OID)
    new.tid = old.tid
    storage.new_addr(new.address)
    commit(storage, p64(8))
    assert [server.called('tpc_finish') for server in two] == [1, 1]
