"""S12: what waits for all clients together has a bound, over real sockets: who has most goes first."""
from __future__ import annotations

import contextlib
import logging
import socket
import struct
import threading

import pytest
from ZODB.MappingStorage import MappingStorage
from ZODB.utils import maxtid

from tests.client.fake_server import p64
from tests.connections.test_finding import commit
from tests.connections.wire import Peer, call, oneway
from tests.support import inside
from tests.support.memory import Peak
from tests.support.runzeo_process import Runzeo
from tests.support.server_process import ServerProcess
from zeo_clone.server.clients import heartbeat

MB = 1 << 20


@pytest.fixture
def peer():
    """Make raw connections that are closed after the test."""
    with contextlib.ExitStack() as opened:
        yield lambda address, **options: opened.enter_context(Peer(address, **options))


class Watched:
    """A server in this process, and what its log says about disconnections."""

    def __init__(self, server, caplog):
        caplog.set_level(logging.DEBUG, 'zeo_clone.server')
        self.server = server
        self.address = server.addr
        self._gone = threading.Condition()
        self._names = []
        forget = server.forget

        def forgetting(session):
            forget(session)
            with self._gone:
                self._names.append(session.name)
                self._gone.notify_all()

        server.forget = forgetting

    def wait_for_ends(self, count):
        with self._gone:
            assert self._gone.wait_for(lambda: len(self._names) >= count, 20)
            return self._names

    def wait_until(self, condition):
        """Look at it in the server's loop, after each of its turns."""
        reached = threading.Event()

        def look():
            if condition():
                reached.set()
            else:
                self.server.call_in_loop(look)

        self.server.call_in_loop(look)
        assert reached.wait(20)

    @property
    def used(self):
        return self.server.ruok()['1']['memory']


@pytest.fixture
def watched(new_server, caplog):
    return lambda **options: Watched(new_server(**options), caplog)


def part(size):
    """Most of a message."""
    return struct.pack('>I', size + 1000) + b'x' * size


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_who_has_most_goes_first_and_the_log_says_why(watched, peer, client, caplog):
    """S12: who, how much, by which key; somebody who has less, and who only listens, stay."""
    server = watched(memory_limit=8 * MB)
    idle = client(server.address, client_label='idle')
    modest, greedy = (peer(server.address).register() for _ in range(2))
    greedy.send(oneway('set_client_label', 'greedy'), part(3 * MB))
    server.wait_until(lambda: server.used >= 3 * MB)
    modest.send(part(MB))
    server.wait_until(lambda: server.used >= 4 * MB)
    others = [peer(server.address).register() for _ in range(2)]
    for other in others:
        other.send(part(2 * MB))
    assert greedy.is_closed()
    name, = server.wait_for_ends(1)
    assert '(greedy)' in name
    line, = [line for line in warnings(caplog) if 'memory-limit' in line]
    assert line.startswith(f'{name}: disconnected: 3145732 bytes wait for it or came from it')
    assert 'may have 8388608 (memory-limit)' in line
    server.wait_until(lambda: server.used >= 5 * MB)
    idle.ping()
    status = idle.server_status()
    assert (status['memory_limit'], status['memory_closed'], status['all_connections']) == (8 * MB, 1, 4)
    assert server.used < 8 * MB


def test_one_client_may_use_nearly_all(watched, peer, client):
    """S12: as long as the sum holds, nobody is closed."""
    server = watched(memory_limit=8 * MB)
    most = peer(server.address).register()
    most.send(part(7 * MB // 2))
    server.wait_until(lambda: server.used >= 7 * MB // 2)
    for number in range(1, 5):
        commit(client(server.address), p64(number))
    assert server.server.ruok()['1']['memory_closed'] == 0


def test_clients_that_do_not_read_are_not_worked_for_when_much_waits(watched, peer, client):
    """S12: 30 of them ask for 300 MB; nobody has to be closed, and others are served."""
    server = watched(memory_limit=16 * MB)
    writer = client(server.address, cache_size=0)
    meta_oid = p64(1)
    commit_large(writer, meta_oid, b'x' * 100_000)
    lazy = [peer(server.address, small=True).register() for _ in range(30)]
    for one in lazy:
        one.send(*(call(number, 'loadBefore', meta_oid, maxtid) for number in range(2, 102)))
    server.wait_until(lambda: server.used > 4 * MB)
    for _ in range(20):
        assert len(writer.loadBefore(meta_oid, maxtid)[0]) == 100_000
    server.wait_until(lambda: server.used <= 16 * MB)  # within a turn it may be more
    status = writer.server_status()  # of one moment: on a busy machine somebody is closed nevertheless
    assert status['connections'] + status['memory_closed'] == 31


def commit_large(storage, oid, data):
    from ZODB.Connection import TransactionMetaData
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.store(oid, bytes(8), data, '', meta)
    storage.tpc_vote(meta)
    return storage.tpc_finish(meta)


@pytest.mark.parametrize('data', [
    pytest.param([oneway('tpc_begin', 7, b'', b'', {}, None, ' '),
                  *(oneway('storea', p64(number), bytes(8), b'x' * 100_000, 7) for number in range(20))],
                 id='transaction'),
    pytest.param([oneway('tpc_begin', 7, b'u' * MB, b'd' * MB, {}, None, ' ')], id='user and description'),
    pytest.param([oneway('tpc_begin', 7, b'', b'', {'x' * MB: b'y' * MB}, None, ' ')], id='extension'),
    pytest.param([part(2 * MB)], id='part of a message'),
])
def test_whatever_is_kept_of_a_client_is_counted(watched, peer, client, data):
    """S12: and given back when the client goes."""
    server = watched(memory_limit=9 * MB)
    senders = [peer(server.address).register() for _ in range(6)]
    for sender in senders:
        sender.send(*data)
    server.wait_for_ends(2)
    server.wait_until(lambda: 6 * MB < server.used <= 9 * MB)
    client(server.address).ping()
    for sender in senders:
        sender.close()
    server.wait_for_ends(6)
    server.wait_until(lambda: server.used == 0)


def test_calls_that_wait_for_an_answer_are_counted(watched, peer):
    """S12: slow methods with large arguments, from a client that does not wait for their answers."""
    go_on, begun = threading.Event(), threading.Event()

    class Slow(MappingStorage):
        def undoInfo(self, first, last, specification):
            begun.set()
            go_on.wait(20)
            return []

        undoLog = undoInfo

    server = watched(storages={'1': Slow()}, memory_limit=8 * MB)
    sender = peer(server.address).register(read_only=True)
    for number in range(2, 6):
        sender.send(call(number, 'undoInfo', 0, 1, {'user_name': 'x' * MB}))
    begun.wait(20)
    server.wait_until(lambda: server.used > 4 * MB)
    go_on.set()
    server.wait_until(lambda: server.used == 0)


def test_nobody_is_closed_in_the_middle_of_a_commit(watched, peer, client, caplog):
    """S12, L3: not even the committer itself, should it have most just then; it goes afterwards."""
    class Growing(MappingStorage):
        def tpc_finish(self, transaction, func=lambda tid: None):
            next(iter(inside.sessions(server.server))).channel.share.add(9 * MB)
            return super().tpc_finish(transaction, func)

    server = watched(storages={'1': Growing()}, memory_limit=8 * MB)
    committer = peer(server.address).register()
    committer.send(oneway('tpc_begin', 7, b'', b'', {}, None, ' '),
                   oneway('storea', p64(1), bytes(8), b'x', 7), call(2, 'vote', 7))
    committer.read()
    committer.send(call(3, 'tpc_finish', 7))
    assert committer.is_closed()
    server.wait_for_ends(1)
    assert [line for line in warnings(caplog) if 'memory-limit' in line]
    reader = client(server.address)
    assert reader.loadBefore(p64(1), maxtid)[0] == b'x'
    status = reader.server_status()
    assert (status['commits'], status['aborts'], status['failed'], status['memory']) == (1, 0, None, 0)


def test_the_bound_holds_under_tls(watched, client, contexts, caplog):
    """S12: what waits is encrypted already, for each client by itself."""
    server = watched(ssl=contexts.server(), memory_limit=4 * MB)
    options = {'ssl': contexts.client(), 'ssl_server_hostname': 'localhost', 'io_thread': False}
    lazy = [client(server.address, **options) for _ in range(4)]
    sessions = list(inside.sessions(server.server))
    notice = sessions[0].channel.core.send_oneway('invalidateTransaction',
                                           (p64(1), [p64(number) for number in range(200_000)]))

    def tell():
        for session in sessions:
            session.channel.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            for _ in range(6):
                session.member.send(notice)

    server.server.call_in_loop(tell)
    server.wait_for_ends(4)
    assert 'memory-limit' in caplog.text
    server.wait_until(lambda: server.used == 0)
    for one in lazy:
        one.close()


def test_who_stops_in_the_middle_of_a_message_is_not_waited_for(watched, peer, client, caplog, monkeypatch):
    """S12: nor is what it sent kept; who only listens, or has sent little of a message, is."""
    monkeypatch.setattr(heartbeat, 'STALLED_S', 0.2)
    server = watched(heartbeat_s=0.05)
    idle, little, stalled = (peer(server.address).register() for _ in range(3))
    little.send(part(1000))
    stalled.send(part(MB))
    assert stalled.is_closed()
    server.wait_for_ends(1)
    assert f'it sent {MB + 4} bytes of a message, and nothing more for 0.2 s' in caplog.text
    assert server.used < 2000
    assert len(inside.sessions(server.server)) == 2


def test_a_large_invalidation_is_in_memory_once_and_closes_nobody(new_server, client, contexts):
    """S12: 20 clients that have not read it yet, 40 MB by the queues, 2 MB in truth."""
    server = new_server(memory_limit=8 * MB)
    lazy = [client(server.addr, io_thread=False) for _ in range(20)]
    for session in list(inside.sessions(server)):
        session.channel.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    done = threading.Event()

    def tell():
        oids = [p64(n) for n in range(200_000)]
        server.served['1'].audience.tell_all('invalidateTransaction', (p64(1), oids))
        done.set()

    server.call_in_loop(tell)
    assert done.wait(20)
    status = server.ruok()['1']
    assert (status['memory_closed'], status['connections']) == (0, 20)
    assert sum(one['queued'] for one in status['clients']) > 10 * MB
    assert status['memory'] < 3 * MB
    for one in lazy:
        one.close()


def test_the_process_stays_as_small_as_the_bound_says(tmp_path, peer):
    """S12: 30 clients send 20 MB each of a message: more than 600 MB without a bound.  What the allocator
    keeps of what it got back comes on top of the bound."""
    storages = [{'kind': 'file', 'path': str(tmp_path / 'Data.fs')}]
    with ServerProcess(storages, memory_limit=128 * MB) as server:
        senders = [peer(server.address).register() for _ in range(30)]
        with Peak(server.pid) as peak:
            for sender in senders:
                with contextlib.suppress(OSError):
                    sender.send(part(20 * MB))
            last = peer(server.address).register()
            last.send(call(2, 'ping'))
            last.read()
        assert 80 * MB < peak.bytes < 350 * MB
        assert 'memory-limit' in server.log()


def test_the_key_of_the_configuration_reaches_the_server(tmp_path):
    """S12: said at start, and in the status."""
    conf = tmp_path / 'zeo.conf'
    conf.write_text('<zeo>\naddress 127.0.0.1:0\nmemory-limit 100MB\n</zeo>\n'
                    '<mappingstorage>\n</mappingstorage>')
    with Runzeo('-C', conf) as server:
        line = server.read_until('room for ')
        server.ready()
        status = server.ruok()['1']
        assert server.stop() == 0
    assert '; 100 MB may wait for all together, a message may have 50 MB, half of memory-limit' in line
    assert (status['memory_limit'], status['frame_limit'], status['memory']) == (100 * MB, 50 * MB, 0)
