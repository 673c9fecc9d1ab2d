"""Prefetching, with a scripted server that offers ``load_batch``, or not."""
from __future__ import annotations

import threading

import pytest
from ZODB.POSException import POSKeyError
from ZODB.utils import maxtid

from tests.client.fake_server import Refuse, p64, z64
from tests.support import inside
from zeo_clone.client import prefetching
from zeo_clone.client.prefetching import BATCH_SIZE, BURST
from zeo_clone.Exceptions import ClientDisconnected, ProtocolError, UnrecognizedResult
from zeo_clone.zrpc import batches

OID = p64(7)


def revision(oid):
    return oid + b'data', p64(1), None


def singly(fake, answer=revision):
    """Answer loads, one by one."""
    fake.answers['loadBefore'] = lambda connection, oid, before: answer(oid)


def in_batches(fake, answer=revision, most=BURST):
    """Answer batches, `most` revisions in a reply; whoever asks for a single one gets it, too."""
    def batch(connection, oids, before, size):
        asked = [oids[at:at + 8] for at in range(0, len(oids), 8)]
        return batches.join([answer(oid) for oid in asked[:most]])

    fake.answers.update(load_batch=batch, get_info=lambda connection: {'extensions': ('load_batch',)})
    singly(fake)


BOTH = pytest.mark.parametrize('serve', [singly, in_batches])


def asked(fake):
    """All oids that were asked for, sorted."""
    found = []
    for name, args in fake.calls:
        if name == 'loadBefore':
            found.append(args[0])
        elif name == 'load_batch':
            assert args[2] == BATCH_SIZE
            found += [args[0][at:at + 8] for at in range(0, len(args[0]), 8)]
    return sorted(found)


@BOTH
def test_a_prefetch_asks_nothing_twice(fake, opened, serve):
    """One burst; what is in the cache already, or asked for already, is not asked for."""
    serve(fake)
    storage = opened()
    storage.loadBefore(p64(3), maxtid)
    storage.prefetch([p64(i) for i in (1, 2, 3, 4, 2, 1)], maxtid)
    for number in (1, 2, 3, 4):
        assert storage.loadBefore(p64(number), maxtid) == revision(p64(number))
    assert asked(fake) == [p64(1), p64(2), p64(3), p64(4)]
    assert fake.called('load_batch') == (serve is in_batches)
    assert inside.loader(storage).prefetcher.pending == {}


@BOTH
def test_a_load_waits_for_the_prefetch_that_is_under_way(fake, opened, serve):
    class Pending(dict):
        """Loads under way; says that somebody has found his among them."""

        def get(self, key, default=None):
            load = super().get(key, default)
            if load is not None:
                joined.release()
            return load

    begun, go_on, joined = threading.Event(), threading.Event(), threading.Semaphore(0)

    def slow(oid):
        begun.set()
        assert go_on.wait(20)
        return revision(oid)

    serve(fake, slow)
    storage = opened()
    inside.loader(storage).prefetcher.pending = Pending()
    storage.prefetch([OID], maxtid)
    assert begun.wait(20)
    found = []
    threads = [threading.Thread(target=lambda: found.append(storage.loadBefore(OID, maxtid)))
               for _ in range(3)]
    for thread in threads:
        thread.start()
    assert all(joined.acquire(timeout=20) for _ in threads)
    go_on.set()
    for thread in threads:
        thread.join()
    assert found == [revision(OID)] * 3
    assert asked(fake) == [OID]


def test_a_load_waits_for_what_did_not_fit_into_a_reply(fake, opened):
    """The rest of a batch is asked for as soon as its beginning is there; it stays under way for others."""
    first_came, go_on = threading.Event(), threading.Event()

    def slow(oid):
        if oid != p64(1):
            first_came.set()
            assert go_on.wait(20)
        return revision(oid)

    in_batches(fake, slow, most=1)
    storage = opened()
    storage.prefetch([p64(1), p64(2), p64(3)], maxtid)
    assert first_came.wait(20)
    found = []
    thread = threading.Thread(target=lambda: found.append(storage.loadBefore(p64(3), maxtid)))
    thread.start()
    assert storage.loadBefore(p64(1), maxtid) == revision(p64(1))
    go_on.set()
    thread.join(20)
    assert found == [revision(p64(3))]
    assert [len(args[0]) for name, args in fake.calls if name == 'load_batch'] == [24, 16, 8]
    assert (fake.called('loadBefore'), inside.loader(storage).prefetcher.pending) == (0, {})


@BOTH
def test_a_prefetch_of_unknown_objects_does_no_harm(fake, opened, serve):
    def unknown(connection, oid, before):
        raise POSKeyError(oid)

    serve(fake, lambda oid: None)
    fake.answers['loadBefore'] = unknown
    storage = opened()
    storage.prefetch([OID], maxtid)
    with pytest.raises(POSKeyError):
        storage.loadBefore(OID, maxtid)


def test_a_batch_with_something_unknown_in_it(fake, opened):
    in_batches(fake, lambda oid: None if oid == p64(2) else revision(oid))
    storage = opened()
    storage.prefetch([p64(1), p64(2), p64(3)], maxtid)
    storage.ping()
    assert sorted(oid for oid, _, _ in inside.cache(storage).contents()) == [p64(1), p64(3)]


def test_a_batch_that_fails_does_no_harm(fake, opened):
    """A prefetch is a wish; whoever needs an object asks for it and is told what is wrong with it."""
    in_batches(fake)

    def fails(connection, oids, before, size):
        raise ValueError('no')

    fake.answers['load_batch'] = fails
    storage = opened()
    storage.prefetch([OID, p64(8)], maxtid)
    assert storage.loadBefore(OID, maxtid) == revision(OID)
    assert (fake.called('load_batch'), inside.loader(storage).prefetcher.pending) == (1, {})


@pytest.mark.parametrize('answer', [None, 5, (), (b'', b''), (bytes(40), b''), (bytes(19), b'')])
def test_an_answer_that_is_no_batch_is_refused(fake, opened, answer):
    """The other side: types and sizes of the server's answers are checked; the link is dropped."""
    in_batches(fake)
    fake.answers['load_batch'] = lambda connection, oids, before, size: answer
    storage = opened()
    channel = inside.link(storage).channel
    storage.prefetch([OID], maxtid)
    assert channel.buried.wait(20)
    assert isinstance(channel.fate, UnrecognizedResult)
    fake.wait(lambda: len(fake.registered) == 2)
    assert storage.loadBefore(OID, maxtid) == revision(OID)


@BOTH
@pytest.mark.parametrize('count', [2500, BURST, BURST + 1])
def test_a_large_prefetch_goes_in_bursts(fake, opened, serve, count):
    serve(fake)
    storage = opened()
    storage.prefetch((p64(i) for i in range(count)), maxtid)
    storage.ping()  # whose answer comes after all others
    for number in range(count):
        storage.loadBefore(p64(number), maxtid)
    assert asked(fake) == [p64(number) for number in range(count)]
    assert fake.called('load_batch') == (-(-count // BURST) if serve is in_batches else 0)


def test_few_bursts_wait_for_their_answers_at_the_same_time(fake, opened, monkeypatch):
    """Memory on both sides does not grow with the number of objects, also where a reply has few of them."""
    monkeypatch.setattr(prefetching, 'MAX_BURSTS', 2)
    in_batches(fake, most=20)
    storage = opened()
    channel = inside.link(storage).channel
    waiting, begin = [], channel.begin

    def note(*args):
        begin(*args)
        waiting.append(channel.core.pending)

    monkeypatch.setattr(channel, 'begin', note)
    storage.prefetch([p64(number) for number in range(20 * BURST)], maxtid)
    for number in range(20 * BURST):
        storage.loadBefore(p64(number), maxtid)
    assert len(waiting) == 60
    assert max(waiting) <= 2
    assert fake.called('loadBefore') == 0


@BOTH
@pytest.mark.parametrize('oid, error', [('abcdefgh', TypeError), (b'short', POSKeyError)])
def test_a_prefetch_with_a_bad_oid_asks_for_nothing(fake, opened, serve, oid, error):
    serve(fake)
    storage = opened()
    with pytest.raises(error):
        storage.prefetch([OID, oid], maxtid)
    with pytest.raises(error):
        storage.prefetch([OID], oid)
    storage.ping()
    assert (asked(fake), inside.loader(storage).prefetcher.pending) == ([], {})


def test_a_prefetch_that_fails_half_way_keeps_what_was_asked(fake, opened, monkeypatch):
    """C16: what was numbered is sent, or the connection would count it as waiting for ever; and nobody waits
    for what was not."""
    singly(fake)
    storage = opened()
    channel = inside.link(storage).channel
    start_load, started = channel.start_load, []

    def full(*args):
        if len(started) == 2:
            raise ProtocolError('100000 calls wait for a reply already')
        started.append(args)
        return start_load(*args)

    monkeypatch.setattr(channel, 'start_load', full)
    with pytest.raises(ProtocolError):
        storage.prefetch([p64(n) for n in range(4)], maxtid)
    monkeypatch.undo()
    storage.ping()
    assert (channel.core.pending, inside.loader(storage).prefetcher.pending) == (0, {})
    assert len(inside.cache(storage)) == 2
    assert storage.loadBefore(p64(3), maxtid) == revision(p64(3))


@pytest.mark.parametrize('serve, door', [(singly, 'send_loads'), (in_batches, 'begin')])
def test_a_prefetch_on_a_lost_connection_leaves_nobody_waiting(fake, opened, monkeypatch, serve, door):
    """C16: a thread may have joined a load between its being noted and its being sent."""
    serve(fake)
    storage = opened()
    channel = inside.link(storage).channel
    loaded, joined = [], threading.Event()

    def wait(pending):
        joined.set()
        wait_for_reply(pending)

    def cut(*args):
        load.start()
        assert joined.wait(20)
        channel.abort(ClientDisconnected('cut'))
        send(*args)

    load = threading.Thread(target=lambda: loaded.append(storage.loadBefore(OID, maxtid)), daemon=True)
    wait_for_reply, send = channel._wait, getattr(channel, door)
    monkeypatch.setattr(channel, '_wait', wait)
    monkeypatch.setattr(channel, door, cut)
    with pytest.raises(ClientDisconnected):
        storage.prefetch([OID], maxtid)
    load.join(20)
    assert (loaded, inside.loader(storage).prefetcher.pending) == ([revision(OID)], {})


def test_nobody_waits_for_the_rest_of_a_batch_when_it_cannot_be_asked_for(fake, opened, monkeypatch):
    """C16: the connection is about to be closed when the beginning of a batch arrives."""
    in_batches(fake, most=1)
    storage = opened()
    channel = inside.link(storage).channel
    begin, begun = channel.begin, []

    def cut(*args):
        begun.append(args)
        if len(begun) == 2:
            channel.sender.doom(ClientDisconnected('cut'))
        begin(*args)

    monkeypatch.setattr(channel, 'begin', cut)
    storage.prefetch([p64(1), p64(2)], maxtid)
    assert storage.loadBefore(p64(2), maxtid) == revision(p64(2))
    assert channel.buried.wait(20)
    assert (len(begun), inside.loader(storage).prefetcher.pending) == (2, {})
    assert storage.loadBefore(p64(1), maxtid) == revision(p64(1))


def test_a_prefetch_ends_with_its_connection(fake, opened):
    """C16: what was asked for and is not answered any more is asked for again by whoever needs it."""
    def cut(connection, oids, before, size):
        connection.cut()
        raise Refuse

    in_batches(fake)
    fake.answers['load_batch'] = cut
    storage = opened()
    storage.prefetch([OID], maxtid)
    assert storage.loadBefore(OID, maxtid) == revision(OID)
    assert inside.loader(storage).prefetcher.pending == {}


def test_what_the_cache_knows_is_not_asked_for_again_after_a_prefetch_of_the_past(fake, opened):
    """A revision that has ended keeps its end."""
    in_batches(fake, lambda oid: (b'old', p64(1), p64(2)))
    storage = opened()
    storage.prefetch([OID], p64(2))
    storage.ping()
    assert list(inside.cache(storage).contents()) == [(OID, p64(1), p64(2))]
    assert storage.loadBefore(OID, p64(2)) == (b'old', p64(1), p64(2))
    assert (asked(fake), fake.tid) == ([OID], z64)
