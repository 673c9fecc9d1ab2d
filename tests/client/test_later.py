"""Calls of which somebody is told the answer, `IAnswersLater`: with a scripted server, and by hand."""
from __future__ import annotations

import threading

import pytest
from ZODB.POSException import POSKeyError
from ZODB.utils import maxtid

from tests.client.fake_server import Refuse, p64
from tests.client.test_order import Wrapper, serve_one
from tests.server.desk import ClockRuntime, HandLoop
from tests.support import inside
from zeo_clone.client.later import TICK_S, LaterCalls
from zeo_clone.Exceptions import ClientDisconnected

OID = p64(7)


class Told:
    """What calls were told, each in order; `wait` for so many."""

    def __init__(self):
        self.ends = []
        self._more = threading.Condition()

    def __call__(self, value, error):
        with self._more:
            self.ends.append(value if error is None else error)
            self._more.notify_all()

    def wait(self, count=1):
        with self._more:
            assert self._more.wait_for(lambda: len(self.ends) >= count, 20)
        return self.ends


@pytest.fixture
def told():
    return Told()


def never(connection, *args):
    raise Refuse


def test_the_answer_is_told_and_kept(fake, opened, told):
    """C1: it enters the cache as an answer that was waited for does; then it is there at once."""
    serve_one(fake)
    storage = opened()
    assert storage.answers_later
    assert storage.load_at_once(OID, maxtid) is None
    storage.load_later(OID, maxtid, told)
    assert told.wait() == [(b'old', p64(1), None)]
    assert storage.load_at_once(OID, maxtid) == (b'old', p64(1), None)
    storage.ping_later(told)
    assert told.wait(2)[1] is None
    assert fake.called('loadBefore') == fake.called('ping') == 1


def test_nothing_is_there_at_once_while_a_transaction_takes_effect(fake, opened):
    """C9: half of it is there; the older revision is."""
    serve_one(fake)
    storage = opened()
    storage.loadBefore(OID, maxtid)
    db = Wrapper(storage)
    db.go_on.clear()
    fake.client.notice('invalidateTransaction', p64(5), [p64(8)])
    assert db.entered.wait(20)
    assert storage.load_at_once(OID, maxtid) is None
    assert storage.load_at_once(OID, p64(5)) == (b'old', p64(1), None)
    db.go_on.set()
    storage.ping()
    assert storage.load_at_once(OID, maxtid) == (b'old', p64(1), None)


def test_without_an_io_thread_nobody_would_tell_it(opened):
    assert not opened(io_thread=False).answers_later


def test_an_error_of_the_server_is_told(fake, opened, told):
    def unknown(connection, oid, before):
        raise POSKeyError(oid)

    fake.answers['loadBefore'] = unknown
    opened().load_later(OID, maxtid, told)
    assert isinstance(told.wait()[0], POSKeyError)


def test_a_call_that_cannot_be_made_is_told_its_error(opened, told):
    """Say, of what the wire does not take; nothing goes wrong for others."""
    storage = opened()
    storage.load_later(lambda: None, maxtid, told)
    assert isinstance(told.wait()[0], Exception)
    storage.ping()


def test_a_call_whose_connection_breaks_is_made_again_on_the_next(fake, opened, told):
    """C16: whoever waits for an answer gets the next server's."""
    def cut(connection, *args):
        serve_one(fake)
        connection.cut()
        raise Refuse

    fake.answers['loadBefore'] = cut
    opened().load_later(OID, maxtid, told)
    assert told.wait() == [(b'old', p64(1), None)]
    assert len(fake.registered) == 2


def test_a_call_waits_for_a_connection(fake, opened, told):
    """It was made while there was none."""
    serve_one(fake)
    register, go_on = fake.answers['register'], threading.Event()

    def slow(*args):
        assert go_on.wait(20)
        return register(*args)

    fake.answers['register'] = slow
    storage = opened(wait=False)
    storage.load_later(OID, maxtid, told)
    assert 'LaterCalls, 1 under way, 1 wait' in repr(inside.engine(storage).later)
    go_on.set()
    assert told.wait() == [(b'old', p64(1), None)]


def test_calls_under_way_end_with_the_storage(fake, opened, told):
    """N12: and later ones at once; nobody waits for ever."""
    fake.answers['ping'] = never
    storage = opened()
    storage.ping_later(told)
    fake.wait(lambda: fake.called('ping'))
    storage.close()
    assert isinstance(told.wait()[0], ClientDisconnected)
    storage.ping_later(told)
    assert 'the storage is closed' in str(told.wait(2)[1])


class Manager:
    """Of a client that never finds a server."""

    addresses = (('db.example', 8100),)
    closed = False

    @property
    def places(self):
        return self

    def usable(self):
        return None


def test_a_call_is_given_up_when_its_time_is_over(told):
    """C16: one after the other, each after its own; then nobody looks any more."""
    loop = HandLoop(ClockRuntime())
    later = LaterCalls(Manager(), loop, 10.0)
    others = Told()
    later.begin(None, None, told)
    loop.turn()
    loop.advance(5)
    later.begin(None, None, others)
    assert not told.ends
    loop.advance(5)
    assert 'no answer of a server at db.example:8100 within 10 s' in str(told.ends[0])
    assert not others.ends
    loop.advance(5)
    assert len(others.ends) == len(told.ends) == 1
    loop.advance(TICK_S)
    assert not list(loop.timers.pop_due())
    assert '0 under way, 0 wait' in repr(later)


def test_an_answer_that_comes_too_late_is_told_to_nobody(told):
    """It was told that there was none."""
    sent = []

    class Link:
        channel = None

    manager = Manager()
    manager.usable = Link
    loop = HandLoop(ClockRuntime())
    later = LaterCalls(manager, loop, 10.0)
    later.begin(lambda channel, call: sent.append(call), None, told)
    loop.turn()
    loop.advance(10)
    assert len(told.ends) == 1
    call, = sent
    call.value = b'late'
    call.on_done(call)
    assert len(told.ends) == 1
