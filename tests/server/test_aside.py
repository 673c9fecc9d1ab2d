"""Storages of any other kind: what they are asked does not keep the loop waiting."""
from __future__ import annotations

import pickle

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.DemoStorage import DemoStorage
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.utils import maxtid, p64, u64, z64

from tests.server.test_server import Wire
from tests.support.held import Held
from zeo_clone.server import aside
from zeo_clone.server.backend.abilities import is_quick
from zeo_clone.server.backend.workers import LONG_THREADS
from zeo_clone.zrpc import batches

OID, OTHER = p64(1), p64(2)


@pytest.fixture
def held():
    storage = Held()
    yield storage
    storage.free_all()


@pytest.fixture
def threadsafe():
    storage = Held(thread_safe=True)
    yield storage
    storage.free_all()


@pytest.fixture
def wire():
    wires = []

    def connect(server, storage='1'):
        wires.append(Wire(server.addr))
        return wires[-1].register(storage)

    yield connect
    for each in wires:
        each.socket.close()


def ask(wire, name, *args, number=5):
    """Call, and do not wait."""
    wire.send(pickle.dumps((number, False, name, args), 3))


def answer(wire):
    """The next message: its number, and what it says."""
    number, _, name, value = pickle.loads(wire.receive())
    return number, value if name == '.reply' else (name, value)


def test_which_storages_are_quick(tmp_path):
    """D1: files in the page cache and memory, also below a DemoStorage; nothing else is known."""
    with_file = FileStorage(str(tmp_path / 'Data.fs'))
    try:
        assert is_quick(with_file) and is_quick(MappingStorage())
        assert is_quick(DemoStorage(base=with_file))
        assert not is_quick(Held()) and not is_quick(DemoStorage(base=Held()))
    finally:
        with_file.close()


@pytest.mark.parametrize('name, asked', [
    ('loadBefore', ('loadBefore', OID, maxtid)), ('loadSerial', ('loadSerial', OID, p64(5))),
    ('new_oid', ('new_oids', 2)), ('history', ('history', OID, 1)),
    ('tpc_begin', None), ('store', None), ('tpc_vote', None), ('tpc_finish', None)])
def test_while_the_storage_takes_its_time_everybody_else_is_served(new_server, wire, held, name, asked):
    """D1: whatever it is asked, other clients are answered, of this storage and of another one."""
    server = new_server({'1': held, '2': MappingStorage()})
    one, same = wire(server), wire(server)
    gate = held.hold(name)
    if asked is not None:
        ask(one, *asked)
    else:
        one.oneway('tpc_begin', 7, b'', b'', {}, None, ' ')
        one.oneway('storea', OID, z64, b'data', 7)
        ask(one, 'vote', 7)
        if name == 'tpc_finish':
            assert answer(one) == (5, [])
            ask(one, 'tpc_finish', 7)
    gate.wait()
    assert same.call('ping') is None and same.call('lastTransaction') == z64
    assert same.call('get_info')['length'] == 0
    assert server.server_status('1')['connections'] == 2
    held.free(name)
    messages = [answer(one)]
    while messages[-1][0] != 5:  # the length has changed, it is told
        messages.append(answer(one))
    if asked is None:
        assert messages[-1][1] == ([] if name != 'tpc_finish' else held.lastTransaction())


def test_equal_loads_are_one(new_server, wire, held):
    """D1: who asks for an object that is being read waits for the same answer."""
    server = new_server({'1': held})
    tid = wire(server).commit(OID)
    gate = held.hold('loadBefore')
    clients = [wire(server) for _ in range(4)]
    for number, client in enumerate(clients):
        ask(client, 'loadBefore', OID, p64(u64(tid) + 1 + number))
    gate.wait()
    wires = [wire(server) for _ in range(2)]
    assert all(one.call('ping') is None for one in wires)
    held.free('loadBefore')
    assert [answer(client) for client in clients] == [(5, (b'data', tid, None))] * 4
    assert held.calls.count('loadBefore') == 1


def test_an_answer_that_was_overtaken_says_so(new_server, wire, threadsafe):
    """C1: read, then somebody commits and it is told, then the answer leaves: it ends where that begins."""
    server = new_server({'1': threadsafe})
    reader, writer = wire(server), wire(server)
    first = writer.commit(OID)
    assert reader.notice()[1] == (first, [OID])
    gate = threadsafe.hold('loadBefore', after=True)
    ask(reader, 'loadBefore', OID, p64(u64(first) + 1))
    gate.wait()
    second = writer.commit(OID, serial=first)
    assert reader.notice()[1] == (second, [OID])
    threadsafe.free('loadBefore')
    assert answer(reader) == (5, (b'data', first, second))


def test_who_wants_it_as_it_is_since_gets_that(new_server, wire, threadsafe):
    """C1: the same, but wanted is what is current after the commit: it is read once more."""
    server = new_server({'1': threadsafe})
    reader, writer = wire(server), wire(server)
    first = writer.commit(OID)
    gate = threadsafe.hold('loadBefore', after=True)
    ask(reader, 'loadBefore', OID, maxtid)
    gate.wait()
    second = writer.commit(OID, serial=first)
    threadsafe.free('loadBefore')
    assert reader.notice()[1][0] == first and reader.notice()[1][0] == second
    assert answer(reader) == (5, (b'data', second, None))


def test_nobody_hears_of_a_later_transaction_before_the_reply_of_an_earlier_one(new_server, wire, held):
    """C24: while a finish is under way the storage tells of what others did: that waits for its end."""
    server = new_server({'1': held})
    committer, other = wire(server), wire(server)
    gate = held.hold('tpc_finish', after=True)
    committer.oneway('tpc_begin', 7, b'', b'', {}, None, ' ')
    committer.oneway('storea', OID, z64, b'data', 7)
    assert committer.call('vote', 7) == []
    ask(committer, 'tpc_finish', 7)
    gate.wait()
    tid = held.lastTransaction()
    later, earlier = p64(u64(tid) + 1), p64(u64(tid) - 1)
    held.db.invalidate(earlier, [OTHER])
    held.db.invalidate(later, [OTHER])
    assert other.call('ping') is None  # nothing is told yet
    held.free('tpc_finish')
    assert committer.notice()[1] == (earlier, [OTHER])
    assert committer.notice()[0] == 'info' and answer(committer) == (5, tid)
    assert committer.notice()[1] == (later, [OTHER])
    assert [other.notice()[1] for _ in range(3)] == [(earlier, [OTHER]), (tid, [OID]), (later, [OTHER])]


def test_an_outcome_is_told_when_it_is_known(new_server, wire, held):
    """C11: the client has lost its connection while it committed, and asks at once."""
    server = new_server({'1': held})
    first, second = wire(server), wire(server)
    token = b't' * 16
    first.call('identify', token, 0)
    gate = held.hold('tpc_finish')
    first.oneway('tpc_begin', 1, b'', b'', {}, None, ' ')
    first.oneway('storea', OID, z64, b'data', 1)
    assert first.call('vote', 1) == []
    ask(first, 'tpc_finish', 1)
    gate.wait()
    second.call('identify', token, 1)
    ask(second, 'commit_outcome', 1)
    assert wire(server).call('ping') is None
    held.free('tpc_finish')
    message = answer(second)
    while message[0] != 5:  # it is told of the transaction as well
        message = answer(second)
    assert message == (5, ('committed', held.lastTransaction()))


def test_a_storage_that_has_lost_track_is_asked_where_it_is(new_server, wire, held):
    """C23: all have to look again; nobody is told anything until it is known where the storage is."""
    server = new_server({'1': held})
    listener = wire(server)
    commit_directly(held, OID)
    gate = held.hold('lastTransaction')
    held.db.invalidateCache()
    with pytest.raises((EOFError, ConnectionResetError)):
        listener.receive()
    gate.wait()
    late = Wire(server.addr)
    with late:
        assert late.receive() == b'Z5'
        late.send(b'Z5')
        ask(late, 'register', '1', False)
        held.free('lastTransaction')
        assert answer(late) == (5, held.lastTransaction())
        assert late.call('getInvalidations', z64) is None


def commit_directly(storage, oid):
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.store(oid, z64, b'data', '', meta)
    storage.tpc_vote(meta)
    return storage.tpc_finish(meta)


def test_a_client_that_goes_while_the_storage_votes_leaves_the_lock(new_server, wire, held):
    """L10: the vote goes to its end, and is aborted then."""
    server = new_server({'1': held})
    gone, other = wire(server), wire(server)
    gate = held.hold('tpc_vote')
    gone.oneway('tpc_begin', 7, b'', b'', {}, None, ' ')
    gone.oneway('storea', OID, z64, b'lost', 7)
    ask(gone, 'vote', 7)
    gate.wait()
    gone.socket.close()
    held.free('tpc_vote')
    tid = other.commit(OID)
    assert other.call('loadBefore', OID, maxtid) == (b'data', tid, None)


def test_long_questions_to_a_storage_take_no_thread_from_others(tmp_path, new_server, wire, held):
    """S14, D1: histories that a storage does not answer keep nobody from the history of another storage."""
    server = new_server({'1': held, '2': FileStorage(str(tmp_path / 'other.fs'))})
    committer = wire(server, '2')
    committer.commit(OID)
    wire(server).commit(OID)
    gate = held.hold('history')
    asking = [wire(server) for _ in range(LONG_THREADS + 1)]
    for one in asking:
        ask(one, 'history', OID, 100)
    for _ in range(LONG_THREADS - 1):  # as many as have long questions at a time
        gate.wait()
    assert len(committer.call('history', OID, 100)) == 1
    held.free('history')
    # None of them was given up meanwhile.
    assert [len(answer(one)[1]) for one in asking] == [1] * len(asking)


# ---- many at once --------------------------------------------------------------------------------

def test_many_loads_at_once_are_as_of_one_moment(new_server, wire, held):
    """C1, D1: a client's prefetch; what does not exist is none, and what is changed meanwhile ends then."""
    server = new_server({'1': held})
    writer, reader = wire(server), wire(server)
    tid = writer.commit(OID, OTHER)
    gate = held.hold('loadBefore')
    ask(reader, 'load_batch', OID + OTHER + p64(99), maxtid, 1 << 20)
    gate.wait()
    held.free('loadBefore')
    while (message := answer(reader))[0] != 5:  # it is told of the commit first
        pass
    assert batches.split(message[1], 3) == [(b'data', tid, None), (b'data', tid, None), None]
    before = reader.call('load_batch', OID, tid, 1 << 20)
    assert batches.split(before, 1) == [None]


def test_many_loads_at_once_come_in_a_reply_of_a_bounded_size(new_server, wire, held):
    """S5b, N19: as many as fit are answered; the client asks for the others again."""
    server = new_server({'1': held})
    oids = [p64(number) for number in range(1, 151)]
    tid = wire(server).commit(*oids)
    reader = wire(server)
    for size, answered in (9, 3), (1 << 20, 100):
        reply = reader.call('load_batch', b''.join(oids), maxtid, size)
        assert batches.split(reply, len(oids)) == [(b'data', tid, None)] * answered


def test_many_loads_at_once_fail_as_one_does(new_server, wire, held):
    """S3."""
    server = new_server({'1': held})
    wire(server).commit(OID)
    reader = wire(server)
    held.inner.loadBefore = fail
    ask(reader, 'load_batch', OID, maxtid, 1 << 20)
    while (message := answer(reader))[0] != 5:
        pass
    assert 'the disk is broken' in repr(message[1])


def fail(*_):
    raise OSError(5, 'the disk is broken')


def test_slow_loads_and_commits_are_measured_and_told(new_server, wire, held, caplog):
    """D1: the time that the storage took, not that of the loop."""
    server = new_server({'1': held}, slow_load_s=0.0, slow_commit_s=0.0)
    tid = wire(server).commit(OID)
    reader = wire(server)
    assert reader.call('loadBefore', OID, maxtid) == (b'data', tid, None)
    assert sum(server.server_status('1')['latency']['load']['counts']) == 1
    assert f'slow load: 127.0.0.1:{reader.socket.getsockname()[1]}: object 0x{OID.hex()}' in caplog.text


def test_a_pack_is_told_with_the_size_that_the_storage_has_then(new_server, wire, held):
    """L5, D1: it is asked, in a thread, before anybody is told."""
    def pack(*_):
        held.inner.getSize = lambda: 12345

    held.inner.pack = pack
    server = new_server({'1': held})
    one, other = wire(server), wire(server)
    assert one.call('pack', 1e10, True) is None
    while (message := other.notice())[0] != 'info':
        pass
    assert message[1][0]['size'] == 12345


def test_a_storage_that_cannot_say_where_it_is_is_asked_again(new_server, wire, held, monkeypatch):
    """C3: until it does nobody is told anything, and whoever registers waits."""
    monkeypatch.setattr(aside, 'ASK_AGAIN_S', 0.01)
    server = new_server({'1': held})
    one = wire(server)
    tid = one.commit(OID)
    inner, tries = held.inner.lastTransaction, []

    def last():
        tries.append(1)
        if len(tries) < 3:
            fail()
        return inner()

    held.inner.lastTransaction = last
    held.db.invalidateCache()
    with pytest.raises((EOFError, ConnectionResetError)):
        while True:
            one.receive()
    assert wire(server).call('lastTransaction') == tid
    assert len(tries) == 3
