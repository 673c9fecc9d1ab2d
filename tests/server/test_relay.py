"""A server in front of another one, which is *above*: hits at once, misses once, everything in order."""
from __future__ import annotations

import contextlib
import os
import re
import threading

import pytest
from persistent.TimeStamp import TimeStamp
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.utils import maxtid, p64, u64, z64

from tests.server.test_aside import answer, ask
from tests.server.test_blobs import BLOB
from tests.server.test_server import Wire
from tests.support.held import Held
from tests.support.proxy import BEFORE, DOWN, Proxy
from zeo_clone.ClientStorage import ClientStorage
from zeo_clone.commands.statustable import Sample, table
from zeo_clone.monitor.exposition import Exposition
from zeo_clone.monitor.reporter import Report
from zeo_clone.server.backend import workers

OID, OTHER = p64(1), p64(2)


@pytest.fixture
def held():
    """One that says it can undo, and so would leave a mark where a pack has been."""
    storage = Held(thread_safe=True, supportsUndo=lambda: True)
    yield storage
    storage.free_all()


@pytest.fixture
def above(new_server, held):
    return new_server({'1': held})


@pytest.fixture
def below(above, new_server):
    return new_server({'1': ClientStorage(above.addr, wait_timeout=30)})


@pytest.fixture
def wire():
    wires = []

    def connect(server, storage='1'):
        wires.append(Wire(server.addr))
        return wires[-1].register(storage)

    yield connect
    for each in wires:
        each.socket.close()


def final(wire, number=5):
    """The answer to the call of that number, after whatever else is told."""
    while (message := answer(wire))[0] != number:
        pass
    return message[1]


def next_notice(wire, name='invalidateTransaction'):
    while (found := wire.notice())[0] != name:
        pass
    return found[1]


@contextlib.contextmanager
def away(above, new_server, wire):
    """The line to the server above is cut: a proxy that heals it, the server below, a client of that, and the
    tid of what that has read."""
    with Proxy(above.addr) as proxy:
        below = new_server({'1': ClientStorage(proxy.address, wait_timeout=30)})
        first = wire(above).commit(OID)
        listener = wire(below)
        assert listener.call('loadBefore', OID, maxtid)[1] == first
        proxy.silence()
        proxy.cut_all()
        yield proxy, below, listener, first


class Mute(MappingStorage):
    """Does not tell of its past."""

    iterator = None


def test_hits_are_answered_whatever_the_server_above_does(above, below, wire, held):
    """D1: it does not answer a load, nor a vote, and new oids neither; what is in the cache is there."""
    tid = wire(above).commit(OID)
    reader, other, committer = wire(below), wire(below), wire(below)
    assert reader.call('loadBefore', OID, maxtid) == (b'data', tid, None)
    gates = [held.hold(name) for name in ('loadBefore', 'tpc_vote', 'new_oid')]
    ask(other, 'loadBefore', OTHER, maxtid)
    ask(other, 'new_oids', 1, number=6)
    committer.oneway('tpc_begin', 7, b'', b'', {}, None, ' ')
    committer.oneway('storea', OTHER, z64, b'data', 7)
    ask(committer, 'vote', 7)
    for gate in gates:
        gate.wait()
    loads = held.calls.count('loadBefore')
    assert [reader.call('loadBefore', OID, maxtid) for _ in range(100)] == [(b'data', tid, None)] * 100
    assert reader.call('lastTransaction') == tid and reader.call('get_info')['extensions']
    assert held.calls.count('loadBefore') == loads
    held.free_all()
    final(other, 6)
    assert final(committer) == []


def test_a_vote_that_is_not_answered_above_is_refused(above, new_server, wire, held):
    """L1, L10: who waits for it has done nothing wrong: it keeps its connection, and commits when it can."""
    below = new_server({'1': ClientStorage(above.addr, wait_timeout=30)}, transaction_timeout=1)
    committer = wire(below)
    gate = held.hold('tpc_vote')
    committer.oneway('tpc_begin', 7, b'', b'', {}, None, ' ')
    committer.oneway('storea', OID, z64, b'data', 7)
    ask(committer, 'vote', 7)
    gate.wait()
    name, arguments = final(committer)
    assert name == 'ZEO.Exceptions.ClientDisconnected'
    assert "storage '1' did not vote within 1 s (transaction-timeout)" in str(arguments)
    held.free_all()
    committer.call('tpc_abort', 7)
    tid = committer.commit(OID)
    assert wire(above).call('loadBefore', OID, maxtid) == (b'data', tid, None)


def test_the_end_waits_for_nobody_above(above, new_server, wire, held, monkeypatch):
    """T3: it does not answer; whoever asks it in a thread waits no longer, and the thread ends."""
    wire(above).commit(OID)
    below = new_server({'below': ClientStorage(above.addr, wait_timeout=30)})  # its threads have the name
    gates = [held.hold(name) for name in ('loadSerial', 'history')]
    ask(wire(below, 'below'), 'loadSerial', OTHER, maxtid)
    ask(wire(below, 'below'), 'history', OID, 1)
    for gate in gates:
        gate.wait()
    names = {'zeo-server-reads-below-1', 'zeo-server-long-below-1'}
    assert names <= {thread.name for thread in threading.enumerate()}
    monkeypatch.setattr(workers, 'CLOSE_WAIT_S', 3600.0)
    closing = threading.Thread(target=below.close, daemon=True)
    closing.start()
    closing.join(60)
    left = {thread.name for thread in threading.enumerate()}
    held.free_all()
    assert not names & left
    assert not closing.is_alive()


def test_equal_misses_are_asked_once(above, below, wire, held):
    """Eight cold clients want the same: the server above is asked for each object once."""
    writer = wire(above)
    tids = {p64(number): None for number in range(1, 51)}
    tid = writer.commit(*tids)
    gate = held.hold('loadBefore')
    clients = [wire(below) for _ in range(8)]
    for client in clients:
        assert client.call('ping') is None  # it has heard of the transaction
        for number, oid in enumerate(tids, 10):
            ask(client, 'loadBefore', oid, p64(u64(tid) + 1), number=number)
    gate.wait()
    held.free('loadBefore')
    for client in clients:
        assert [answer(client)[1] for _ in tids] == [(b'data', tid, None)] * 50
    assert above.server_status('1')['loads'] == 50
    assert below.server_status('1')['relay']['misses'] >= 50


def test_a_miss_fails_when_the_patience_is_over_and_others_go_on(above, new_server, wire, held):
    """Upstream mute: one clear error that lets the transaction be tried again."""
    tid = wire(above).commit(OID)
    storage = ClientStorage(above.addr, wait=False, wait_timeout=0.2)
    below = new_server({'1': storage})
    storage.server_status(timeout=60)  # waits for the connection
    assert storage.loadBefore(OID, maxtid)[1] == tid
    reader, other = wire(below), wire(below)
    assert reader.call('loadBefore', OID, maxtid)[1] == tid
    gate = held.hold('loadBefore')
    ask(other, 'loadBefore', OTHER, maxtid)
    gate.wait()
    error = repr(final(other))
    assert 'no answer of a server at 127.0.0.1' in error and 'ClientDisconnected' in error
    assert reader.call('loadBefore', OID, maxtid)[1] == tid


def test_without_the_server_above_clients_come_go_and_read(new_server, wire, tmp_path):
    """The cache outlives the process of the relay: a new one serves from it before it has found anybody."""
    above = new_server()
    cache = str(tmp_path / 'relay.zec')
    tid = wire(above).commit(OID)
    first = new_server({'1': ClientStorage(above.addr, cache=cache)})
    assert wire(first).call('loadBefore', OID, maxtid)[1] == tid
    first.close()
    above.close()
    second = new_server({'1': ClientStorage(above.addr, cache=cache, wait=False, wait_timeout=0.1)})
    client = wire(second)
    assert client.call('lastTransaction') == tid
    assert client.call('loadBefore', OID, p64(u64(tid) + 1)) == (b'data', tid, None)
    ask(client, 'loadBefore', OTHER, maxtid)
    assert 'no answer' in repr(final(client))
    status = second.server_status('1')
    assert status['failed'].startswith('the server above is away') and status['relay']['hits'] == 1
    away = next(line for line in table('', Sample(second.ruok(), 0.0), None) if 'ALARM' in line)
    assert re.search(r'the server above has been away for \d+ s: only what is cached', away)


def test_metrics_and_the_status_know_relays(above, below, wire):
    """What one looks at when workers are slow: is the server above there, and does the cache hold what they
    use."""
    tid = wire(above).commit(OID)
    reader = wire(below)
    for _ in range(3):
        assert reader.call('loadBefore', OID, maxtid)[1] == tid
    assert below.server_status('1')['relay'] == {
        'connected': True, 'away': None, 'hits': 2, 'misses': 1, 'waiting': 0, 'cache_objects': 1,
        'cache_bytes': (used := below.storages['1'].cache_stats()['used']),
        'cache_size': (size := below.storages['1'].cache_stats()['capacity'])}
    text = Exposition().expose(Report(below.ruok(), 0.0, 0.0), '')[1].decode()
    found = re.findall(r'^zeo_relay_(\w+){storage="1"} (.*)$', text, re.M)
    assert {name: float(value) for name, value in found
            } == {'away_seconds': 0, 'waiting_objects': 0, 'cache_bytes': used, 'cache_objects': 1,
                  'cache_size_bytes': size, 'hits_total': 2, 'misses_total': 1}
    lines = '\n'.join(table('', Sample(below.ruok(), 0.0), None))
    assert 'server above: there, waiting for 0 objects' in lines and 'hits 2, misses 1' in lines
    assert 'zeo_relay' not in Exposition().expose(Report(above.ruok(), 0.0, 0.0), '')[1].decode()


def test_what_was_missed_is_told_one_by_one(above, new_server, wire):
    """C3: the server above was away, and others have committed: each transaction with its own tid."""
    with away(above, new_server, wire) as (proxy, _, listener, first):
        writer = wire(above)
        second = writer.commit(OTHER)
        third = writer.commit(OID, serial=first)
        fourth = writer.commit(OID, serial=third)
        proxy.heal()
        assert [next_notice(listener) for _ in range(3)] == [
            (second, [OTHER]), (third, [OID]), (fourth, [OID])]
        assert listener.call('loadBefore', OID, third) == (b'data', first, third)
        assert listener.call('getInvalidations', second) == (fourth, [OID])


def test_what_was_missed_is_asked_for_again_if_the_connection_breaks_meanwhile(new_server, wire):
    """C3: nobody is sent away for that."""
    held = Held()
    above = new_server({'1': held})
    with away(above, new_server, wire) as (proxy, _, listener, first):
        second = wire(above).commit(OID, serial=first)
        gate = held.hold('iterator')
        proxy.heal()
        gate.wait()
        proxy.cut_all()
        held.free('iterator')
        assert next_notice(listener) == (second, [OID])


def test_where_the_past_is_not_told_clients_verify(new_server, wire):
    """C3: nobody is told a tid that is not the transaction's; who comes back is told what changed."""
    above = new_server({'1': Held(Mute())})
    with away(above, new_server, wire) as (proxy, below, listener, first):
        writer = wire(above)
        second = writer.commit(OID, serial=first)
        third = writer.commit(OTHER)
        proxy.heal()
        with pytest.raises((EOFError, ConnectionResetError)):
            listener.receive()
        late = wire(below)
        last, oids = late.call('getInvalidations', first)
        assert (last, set(oids)) == (third, {OID, OTHER})
        assert late.call('loadBefore', OID, third) == (b'data', second, None)


@pytest.mark.parametrize('kind', ['file', 'memory'])
def test_where_the_past_is_packed_clients_verify(kind, new_server, wire, tmp_path):
    """C1, C3: a pack has removed what tells that an object changed earlier, too: nobody is told of a part."""
    storage = FileStorage(str(tmp_path / 'Data.fs')) if kind == 'file' else MappingStorage()
    above = new_server({'1': storage})
    with away(above, new_server, wire) as (proxy, below, listener, first):
        writer = wire(above)
        second = writer.commit(OID, serial=first)
        writer.commit(OTHER)
        last = writer.commit(OID, serial=second)
        storage.pack(TimeStamp(last).timeTime() + 1, lambda record: [], gc=False)
        assert second not in {transaction.tid for transaction in storage.iterator()}
        proxy.heal()
        with pytest.raises((EOFError, ConnectionResetError)):
            listener.receive()
        found, oids = wire(below).call('getInvalidations', first)
        assert (found, set(oids)) == (last, {OID, OTHER})


@pytest.mark.parametrize('others', [False, True])
def test_a_reply_that_was_lost_is_found_out_and_comes_in_order(above, new_server, wire, held, others):
    """C24: the line to the server above drops while it commits; nobody hears of later transactions first."""
    wire(above).commit(p64(9))
    with Proxy(above.addr) as proxy:
        below = new_server({'1': ClientStorage(proxy.address, wait_timeout=30)})
        committer, listener, writer = wire(below), wire(below), wire(above)
        gate = held.hold('tpc_finish', after=True)
        committer.oneway('tpc_begin', 7, b'', b'', {}, None, ' ')
        committer.oneway('storea', OID, z64, b'data', 7)
        assert committer.call('vote', 7) == []
        ask(committer, 'tpc_finish', 7)
        gate.wait()
        proxy.silence()
        proxy.cut_all()
        held.free('tpc_finish')
        tid = next_notice(writer)[0]
        later = [writer.commit(OTHER)] if others else []
        proxy.heal()
        assert final(committer) == tid
        assert [next_notice(listener)[0] for _ in range(1 + len(later))] == [tid, *later]
        assert [next_notice(committer)[0] for _ in later] == later


def test_a_ping_has_all_told_that_was_committed_above(above, below, wire):
    """C20: whoever asks is told of what anybody above had a reply for."""
    listener, writer = wire(below), wire(above)
    seen = []
    for number in range(20):
        tid = writer.commit(p64(100 + number))
        ask(listener, 'ping')
        while (message := answer(listener))[0] != 5:
            seen.append(message)
        assert seen[-1][1][1][0] == tid


def test_a_server_above_that_may_only_be_read(above, new_server, wire):
    """N11: the other one is out of reach; who is here reads on and hears of commits, cannot write, and can
    when that is back.  Whoever comes for writing meanwhile is told."""
    reserve = new_server({'1': ClientStorage(above.addr, wait_timeout=30)}, read_only=True)
    with Proxy(above.addr) as proxy:
        storage = ClientStorage([proxy.address, reserve.addr], wait_timeout=30, read_only_fallback=True)
        below = new_server({'1': storage})
        client, writer = wire(below), wire(above)
        first = client.commit(OID)
        proxy.silence()
        proxy.cut_all()
        second = writer.commit(OTHER)
        assert next_notice(client) == (second, [OTHER])
        assert storage.isReadOnly()
        assert client.call('loadBefore', OID, maxtid) == (b'data', first, None)
        client.oneway('tpc_begin', 7, b'', b'', {}, None, ' ')
        client.oneway('storea', OID, first, b'data', 7)
        ask(client, 'vote', 7)
        assert 'ReadOnlyError' in repr(final(client))
        client.call('tpc_abort', 7)
        with Wire(below.addr) as late:
            assert late.receive() == b'Z5'
            late.send(b'Z5')
            ask(late, 'register', '1', False)
            assert 'ReadOnlyError' in repr(answer(late))
        proxy.heal()
        while storage.isReadOnly():
            client.call('ping')
        third = client.commit(OID, serial=first)
        assert writer.call('loadBefore', OID, maxtid) == (b'data', third, None)


def test_the_past_of_a_client_is_what_the_server_above_says_or_not_known(above, new_server, wire):
    """C22: what the relay does not remember is looked for above; a tid that merely lies between two others is
    no transaction, and nothing is told as if it were one."""
    writer = wire(above)
    tids = [writer.commit(p64(number)) for number in range(1, 6)]
    below = new_server({'1': ClientStorage(above.addr, wait_timeout=30)}, invalidation_age=3600,
                       invalidation_queue_size=1)
    client = wire(below)
    tids.append(writer.commit(p64(6)))
    client.call('ping')
    for place, tid in enumerate(tids):
        last, oids = client.call('getInvalidations', tid)
        assert (last, sorted(oids)) == (tids[-1], [p64(number) for number in range(place + 2, 7)])
        between = p64(u64(tid) + 1)
        assert client.call('getInvalidations', between) is None
        assert client.call('has_transaction', between) is None
        assert client.call('has_transaction', tid) is not False


def test_commits_at_both_while_connections_break(above, new_server, wire):
    """C24, C3: whatever is lost on the way, a client below hears of each transaction once, in order."""
    wire(above).commit(p64(9))
    with Proxy(above.addr) as proxy:
        below = new_server({'1': ClientStorage(proxy.address, wait_timeout=30)})
        listener = wire(below)
        tids = []

        def work(server, number):
            client = wire(server)
            tids.extend(client.commit(p64(100 * number + step)) for step in range(15))

        threads = [threading.Thread(target=work, args=(above, 1))]
        for thread in threads:
            thread.start()
        for number in range(6):
            proxy.cut(DOWN, b'invalidateTransaction', BEFORE)
            tids.append(wire(above).commit(p64(1000 + number)))
        for thread in threads:
            thread.join()
        assert [next_notice(listener)[0] for _ in range(21)] == sorted(tids)


def test_a_blob_whose_file_is_cleaned_up_when_it_is_found_is_sent_all_the_same(new_server, wire, tmp_path):
    """B6: of the cache of the client that is relayed."""
    above = new_server({'1': FileStorage(str(tmp_path / 'Data.fs'), blob_dir=str(tmp_path / 'blobs'))})
    relayed = ClientStorage(above.addr, blob_dir=str(tmp_path / 'cache'), blob_cache_size=1)
    below = wire(new_server({'1': relayed}))
    load, paths = relayed.loadBlob, []

    def load_and_lose(oid, serial):
        paths.append(load(oid, serial))
        os.remove(paths[-1])
        return paths[-1]

    relayed.loadBlob = load_and_lose
    committer = wire(above)
    committer.oneway('tpc_begin', 7, b'', b'', {}, None, ' ')
    committer.oneway('storeBlobStart')
    committer.oneway('storeBlobChunk', b'some bytes')
    committer.oneway('storeBlobEnd', OID, z64, BLOB, 7)
    assert committer.call('vote', 7) == []
    tid = committer.call('tpc_finish', 7)
    assert below.call('blob_size', OID, tid) == 10
    assert below.call('sendBlob', OID, tid) is None
