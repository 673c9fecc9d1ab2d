"""Clients of a relay, all in processes of their own: the server above is stopped, killed, or real ZEO."""
from __future__ import annotations

import os
import signal
import threading

import pytest
from ZODB.POSException import ConflictError, POSKeyError
from ZODB.utils import maxtid, p64, z64

from tests.storage.helpers import Recorder, commit, store, store_blob
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


@pytest.fixture
def chain(blob_server, tmp_path):
    """A relay, and one in front of it: with the server above them, from top to bottom."""
    with relay_of(blob_server, tmp_path, blob_dir=str(tmp_path / 'middle-blobs')) as middle:
        lowest = tmp_path / 'lowest'
        lowest.mkdir()
        with relay_of(middle, lowest, blob_dir=str(lowest / 'blobs')) as relay:
            yield blob_server, middle, relay


def test_a_relay_before_a_relay(chain, client, tmp_path):
    """Whoever commits where: each other client is told once, in order; blobs come through."""
    everybody = [client(server.address, blob_dir=str(tmp_path / f'blobs-{number}'))
                 for number, server in enumerate([*chain, chain[-1]])]
    told = [Recorder(storage) for storage in everybody]
    serial, tids = z64, []
    for number in range(8):
        writer = everybody[number % 4]
        blob = p64(100 + number)
        serial = commit(writer, store(OID, b'%d' % number, serial),
                        store_blob(blob, tmp_path / f'up-{number}', b'blob %d' % number))
        tids.append(serial)
        for storage in everybody:
            catch_up(storage, serial)
            assert storage.load(OID) == (b'%d' % number, serial)
            with storage.openCommittedBlobFile(blob, serial) as file:
                assert file.read() == b'blob %d' % number
    for number, recorder in enumerate(told):
        assert list(recorder.invalidated) == [tid for place, tid in enumerate(tids) if place % 4 != number]


def test_a_relay_between_two_is_killed(chain, client):
    """C11, C24: kill -9 in the middle of commits from below; the lowest finds out what became of them."""
    above, middle, relay = chain
    storages = [client(relay.address) for _ in range(2)]
    for number, storage in enumerate(storages):
        commit(storage, store(p64(10 + number), b'0'))
    counters = [Counting(storage, p64(10 + number)) for number, storage in enumerate(storages)]
    threads = [threading.Thread(target=lambda one=one: [one.step() for _ in range(12)]) for one in counters]
    for thread in threads:
        thread.start()
    for _ in range(2):
        middle.kill()
        middle.start()
    for thread in threads:
        thread.join()
    reader = client(above.address)
    assert [int(reader.load(p64(10 + number))[0]) for number in range(2)] == [12, 12]
