"""Clients of a relay, all in processes of their own: the server above is stopped, killed, or real ZEO."""
from __future__ import annotations

import os
import signal
import threading

import pytest
from ZODB.POSException import ConflictError, POSKeyError
from ZODB.utils import maxtid, p64

from tests.storage.helpers import Recorder, commit, store
from tests.storage.test_fan_out import catch_up
from tests.support.server_process import ServerProcess
from zeo_clone.Exceptions import ClientDisconnected

OID, OTHER = p64(1), p64(2)


def relay_of(above, tmp_path, **options):
    return ServerProcess([{'kind': 'client', 'addr': above.address, 'cache': str(tmp_path / 'relay.zec'),
                           'wait': False, **options}])


def test_hits_go_on_while_the_server_above_is_stopped(server_process, tmp_path, client, in_thread):
    """D1: a process that does not answer, though its connection is there; who waits is answered later."""
    with relay_of(server_process, tmp_path) as relay:
        tid = commit(client(relay.address), store(OID, b'data'), store(OTHER, b'other'))
        first = client(relay.address)
        assert first.load(OID) == (b'data', tid)
        os.kill(server_process.pid, signal.SIGSTOP)
        try:
            second = client(relay.address)  # comes meanwhile
            assert second.load(OID) == (b'data', tid)
            waiting = in_thread(load_nothing, first)
            assert second.load(OTHER) == (b'other', tid)
        finally:
            os.kill(server_process.pid, signal.SIGCONT)
        waiting.result()


def load_nothing(storage):
    with pytest.raises(POSKeyError):
        storage.load(p64(99))


class Counting:
    """Counts up an object as often as that works; what it was told is what is there."""

    def __init__(self, storage, oid):
        self.acknowledged = 0
        self._storage = storage
        self._oid = oid

    def step(self):
        while True:
            try:
                data, serial = self._storage.load(self._oid)
                commit(self._storage, store(self._oid, b'%d' % (int(data) + 1), serial))
            except (ClientDisconnected, ConflictError):
                continue
            self.acknowledged += 1
            return


@pytest.mark.parametrize('killed', ['above', 'relay'])
def test_what_was_acknowledged_is_there_once_whoever_is_killed(server_process, tmp_path, client, killed):
    """C11, C24, X2: kill -9 while two clients of a relay commit; nothing is lost, nothing done twice."""
    with relay_of(server_process, tmp_path) as relay:
        victim = {'above': server_process, 'relay': relay}[killed]
        storages = [client(relay.address) for _ in range(2)]
        for number, storage in enumerate(storages):
            commit(storage, store(p64(10 + number), b'0'))
        counters = [Counting(storage, p64(10 + number)) for number, storage in enumerate(storages)]
        threads = [threading.Thread(target=lambda one=one: [one.step() for _ in range(12)])
                   for one in counters]
        for thread in threads:
            thread.start()
        for _ in range(2):
            victim.kill()
            victim.start()
        for thread in threads:
            thread.join()
        reader = client(server_process.address)
        assert [int(reader.load(p64(10 + number))[0]) for number in range(2)] == [12, 12]


def test_a_relay_in_front_of_real_zeo(peer_server, tmp_path, client):
    """What is committed at real ZEO, also while it is away from the relay, is told with its own tids."""
    with relay_of(peer_server, tmp_path) as relay:
        above, below = client(peer_server.address), client(relay.address)
        first = commit(above, store(OID, b'one'))
        catch_up(below, first)
        recorder = Recorder(below)
        assert below.load(OID) == (b'one', first)
        second = commit(below, store(OTHER, b'two'))
        third = commit(above, store(OID, b'three', first))
        catch_up(below, third)
        assert recorder.of(third) == {OID} and second not in recorder.invalidated
        assert below.loadBefore(OID, third) == (b'one', first, third)
        assert below.loadBefore(OID, maxtid) == (b'three', third, None)
        os.kill(peer_server.pid, signal.SIGSTOP)
        try:
            assert client(relay.address).load(OID) == (b'three', third)
        finally:
            os.kill(peer_server.pid, signal.SIGCONT)
