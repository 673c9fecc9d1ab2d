"""S13: connections that do not register use up nothing that others need; real sockets, few descriptors."""
from __future__ import annotations

import contextlib
import re
import resource
import socket
import sys

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.utils import maxtid, z64

from tests.client.fake_server import p64
from tests.connections.test_finding import commit
from tests.support.runzeo_process import MODULE, Runzeo, run
from zeo_clone.client.storage import ClientStorage
from zeo_clone.Exceptions import ClientDisconnected

FEW = 256


def with_descriptors(soft, hard):
    """A command that runs runzeo with so many descriptors."""
    code = ('import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, '
            f'({soft}, {hard})); os.execv(sys.argv[1], sys.argv[1:])')
    return (sys.executable, '-c', code, *MODULE)


class Crowd:
    """Connections that say nothing."""

    def __init__(self, address):
        self.address = address
        self.sockets = []

    def come(self, count):
        for _ in range(count):
            with contextlib.suppress(OSError):
                self.sockets.append(socket.create_connection(self.address, 20))

    def close(self):
        for sock in self.sockets:
            sock.close()


@pytest.fixture
def small(tmp_path):
    """A server whose process may have few descriptors."""
    arguments = '-a', '127.0.0.1:0', '-f', tmp_path / 'Data.fs'
    with Runzeo(*arguments, command=with_descriptors(FEW, FEW)) as server:
        yield server.ready()
        assert server.stop() == 0


@pytest.fixture
def crowd(small):
    crowd = Crowd(small.address)
    yield crowd
    crowd.close()


def test_loads_and_commits_go_on_beside_a_crowd_of_strangers(small, crowd, client):
    """S13: 400 strangers and 256 descriptors; nothing had to be opened before they came."""
    clients = [client(small.address, cache_size=0) for _ in range(5)]
    commit(clients[0], p64(1))
    crowd.come(400)
    for one in clients:
        for _ in range(10):
            assert one.loadBefore(p64(1), maxtid)[0] == b'data'
        assert [len(list(transaction)) for transaction in one.iterator()][-1:] == [1]
    for number, one in enumerate(clients, 2):
        commit(one, p64(number))
    status = clients[0].server_status()
    assert status['connections'] == 5
    assert status['strangers'] <= status['max_strangers'] == 45
    assert status['all_connections'] <= status['max_connections'] == 182


def test_new_clients_and_health_checks_get_in_beside_a_crowd_of_strangers(small, crowd, client):
    """S13, N9: the strangers of whom nothing is heard make room for them."""
    crowd.come(400)
    for number in range(1, 21):
        commit(client(small.address, wait_timeout=20), p64(number))
        crowd.come(5)
    assert small.ruok()['1']['connections'] == 20
    assert small.log.count('refused: there are') <= 2  # N15


def test_registered_clients_are_never_disturbed_by_others_that_come(small, client, tmp_path):
    """S13: when all places are taken by them, more are refused."""
    clients = [client(small.address) for _ in range(182)]
    late = client(small.address, wait=False, wait_timeout=20)
    crowd = Crowd(small.address)
    crowd.come(50)
    for one in clients:
        one.ping()
    assert not late.is_connected()
    crowd.close()
    clients.pop().close()
    late.ping()
    commit(clients[0], p64(1))


def test_clients_that_keep_files_open_leave_some_for_the_storage(small, client):
    """S13: each iterator of a FileStorage is an open file."""
    greedy, other = client(small.address), client(small.address, cache_size=0)
    commit(other, p64(1))
    iterators = []
    with pytest.raises(OSError, match=f'its limit is {FEW} descriptors'):
        for _ in range(FEW):
            iterators.append(greedy.iterator())  # noqa: PERF401 - those before the error count
    assert len(iterators) > 150
    meta = TransactionMetaData()
    other.tpc_begin(meta)
    for number in range(50):
        other.store(p64(number + 100), bytes(8), b'x' * 100_000, '', meta)
    other.tpc_vote(meta)  # which has a file of its own
    other.tpc_finish(meta)
    for number in range(2, 20):
        commit(other, p64(number))
        assert other.loadBefore(p64(number), maxtid)[0] == b'data'
    iterators.clear()
    greedy.sync()
    commit(other, p64(30))


def test_as_many_connections_as_the_start_promises_fit(tmp_path, client):
    """S13: of few descriptors, too, many of which the process has in use when they come."""
    arguments = '-a', 'localhost:0', '-f', tmp_path / 'one.fs', '-f', tmp_path / 'two.fs'
    with Runzeo(*arguments, command=with_descriptors(80, 80)) as server:
        promised = int(re.search(r'room for (\d+) connections', server.read_until('room for '))[1])
        address = server.ready().address
        clients = [client(address, storage=f'{number % 2 + 1}') for number in range(promised)]  # one by one
        for one in clients:
            one.load(z64)
        assert server.stop() == 0
    assert promised > 10


def test_who_is_refused_for_want_of_descriptors_is_told_so(tmp_path, client):
    """S13: and not that so many are too many, when others have the descriptors, iterators for instance."""
    arguments = '-a', '127.0.0.1:0', '-f', tmp_path / 'Data.fs'
    with Runzeo(*arguments, command=with_descriptors(64, 64)) as server:
        address = server.ready().address
        greedy = client(address)
        iterators = [greedy.iterator() for _ in range(10)]
        with pytest.raises(ClientDisconnected):
            for _ in range(15):  # one by one: never more than one that is not registered
                client(address, wait_timeout=5)
        line = server.read_until('refused: there are')
        del iterators
        assert server.stop() == 0
    assert 'and room for 15 and 3; too many files are open for so many: the limit is 64 desc' in line


def test_the_limit_is_raised_as_far_as_it_may_be(tmp_path):
    """S13."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    arguments = '-a', '127.0.0.1:0', '-f', tmp_path / 'Data.fs'
    with Runzeo(*arguments, command=with_descriptors(FEW, 2000)) as server:
        line = server.read_until('room for ')
        limits, _ = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
        server.ready()
        assert server.stop() == 0
    assert limits == 2000 <= hard
    assert 'room for 1708 connections, 427 of them not registered yet, with 2000 descriptors; ' in line
    assert 'For max-connections 10000 the process needs 11477 descriptors: raise its limit' in line


def test_check_says_what_would_fit(tmp_path):
    """S13: and raises nothing."""
    code, output, _ = run('--check', command=with_descriptors(FEW, FEW), cwd=tmp_path)
    assert code == 0
    assert 'would have room for 182 connections, 45 of them not registered yet, with 256 desc' in output


def test_enough_is_left_as_it_is(tmp_path):
    """S13: a limit that is higher than needed is not lowered."""
    conf = tmp_path / 'zeo.conf'
    conf.write_text('<zeo>\naddress 127.0.0.1:0\nmax-connections 5\n</zeo>\n'
                    '<mappingstorage>\n</mappingstorage>')
    with Runzeo('-C', conf, command=with_descriptors(FEW, 2000)) as server:
        line = server.read_until('room for ')
        assert resource.prlimit(server.pid, resource.RLIMIT_NOFILE)[0] == FEW
        server.ready()
        assert server.stop() == 0
    assert 'room for 5 connections, 1 of them not registered yet, with 256 descriptors; ' in line
    assert 'max-connections' not in line


def test_a_storm_of_clients_that_come_back_gets_in(small):
    """S13, N2: many at once, more than strangers may be; nobody is pushed out for good."""
    storages = [ClientStorage(small.address, wait=False, wait_timeout=20) for _ in range(120)]
    for storage in storages:
        storage.ping()
    for storage in storages:
        storage.close()
