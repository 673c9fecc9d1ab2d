"""A server whose storage is a client of another server: what one hears, the other passes on."""
from __future__ import annotations

import threading

import pytest
from ZODB.utils import p64, z64

from tests.server.test_server import Wire
from zeo_clone.ClientStorage import ClientStorage

OID = p64(1)


@pytest.fixture
def upstream(new_server):
    return new_server()


@pytest.fixture
def downstream(upstream, new_server):
    return new_server({'1': ClientStorage(upstream.addr, wait_timeout=20)})


@pytest.fixture
def wire():
    wires = []

    def connect(server):
        wires.append(Wire(server.addr))
        return wires[-1].register()

    yield connect
    for each in wires:
        each.socket.close()


def test_a_commit_above_is_passed_on_below(upstream, downstream, wire):
    below = wire(downstream)
    tid = wire(upstream).commit(OID)
    assert below.notice() == ('invalidateTransaction', (tid, [OID]))
    assert below.call('loadBefore', OID, b'\x7f' + b'\xff' * 7) == (b'data', tid, None)
    assert below.call('getInvalidations', z64) == (tid, [OID])


def test_a_commit_below_is_seen_above_and_by_the_others_below(upstream, downstream, wire):
    above, committer, other = wire(upstream), wire(downstream), wire(downstream)
    tid = committer.commit(OID)
    assert above.notice() == other.notice() == ('invalidateTransaction', (tid, [OID]))
    assert committer.call('lastTransaction') == tid


def test_commits_of_both_levels_are_told_in_the_order_of_their_tids(upstream, downstream, wire):
    """Order: whoever commits where, a client below hears tids that go up, each once."""
    listener = wire(downstream)
    tids = []

    def work(server, number):
        client = wire(server)
        tids.extend(client.commit(p64(100 * number + step)) for step in range(20))

    threads = [threading.Thread(target=work, args=(server, number))
               for number, server in enumerate((upstream, downstream), 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [listener.notice()[1][0] for _ in range(40)] == sorted(tids)


def test_while_all_is_started_over_nobody_below_is_told_zeros(upstream, downstream, wire, monkeypatch):
    """C23: the storage in between empties its cache; who comes at that moment is told a true tid."""
    listener = wire(downstream)
    tid = wire(upstream).commit(OID)
    assert listener.notice() == ('invalidateTransaction', (tid, [OID]))
    storage = downstream.storages['1']
    storage.ping()  # now its effects are all there
    effects, seen = storage.effects, []
    set_last_tid = effects.cache.setLastTid

    def slowly(new):
        seen.append((effects.cache.getLastTid(), effects.last_transaction(),
                     wire(downstream).call('lastTransaction')))
        set_last_tid(new)

    monkeypatch.setattr(effects.cache, 'setLastTid', slowly)
    effects.start_over(tid)
    assert seen == [(z64, tid, tid)]
    with pytest.raises((EOFError, ConnectionResetError)):
        while True:  # it is to verify, after whatever it hears before
            listener.notice()
    assert wire(downstream).call('lastTransaction') == tid
