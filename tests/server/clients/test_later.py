"""A backend may answer later: whoever asks it for a client takes a value or a `Deferred`."""
from __future__ import annotations

import pytest
from ZODB.POSException import POSKeyError
from ZODB.utils import maxtid, p64

from tests.server.desk import Desk
from zeo_clone.server.clients import session
from zeo_clone.server.deferred import Deferred

OID = p64(1)


class Slow:
    """Stands for a part of a backend of which nothing is known at once."""

    def __init__(self):
        self.answers = []

    def __call__(self, *args):
        self.answers.append(Deferred())
        return self.answers[-1]

    loadBefore = __call__


@pytest.fixture
def client():
    return Desk().connect()


@pytest.fixture
def slow(client):
    """All that clients wait for comes later."""
    slow = client.member.reader = Slow()
    for name in ('load_serial', 'get_tid', 'new_oids'):
        setattr(client.member.backend, name, slow)
    return slow


@pytest.mark.parametrize('name, args, value', [
    ('loadBefore', (OID, maxtid), (b'data', p64(5), None)),
    ('loadBefore', (OID.decode('latin-1'), maxtid), None),
    ('loadSerial', (OID, p64(5)), b'data'), ('getTid', (OID,), p64(5)), ('new_oids', (2,), [p64(7), p64(8)])])
def test_an_answer_that_comes_later_is_the_reply(client, slow, name, args, value):
    """D1, S3: the loop goes on, and others are answered meanwhile."""
    waiting = client.start(name, *args)
    assert client.call('ping') is None
    assert not client.has_reply(waiting)
    slow.answers[0].succeed(value)
    assert client.result(waiting) == value


def test_answers_may_come_in_any_order(client, slow):
    """S3: each to its own call."""
    first, second = (client.start('loadBefore', p64(number), maxtid) for number in (1, 2))
    slow.answers[1].succeed((b'second', p64(5), None))
    slow.answers[0].succeed((b'first', p64(5), None))
    assert client.result(first)[0] == b'first' and client.result(second)[0] == b'second'


def test_an_error_that_comes_later_is_the_reply(client, slow):
    waiting = client.start('loadBefore', OID, maxtid)
    slow.answers[0].fail(POSKeyError(OID))
    with pytest.raises(POSKeyError):
        client.result(waiting)


def test_a_load_that_waits_is_counted_and_dropped_with_its_client(client, slow):
    """S12, C16."""
    before = client.channel.share.size
    client.start('loadBefore', OID, maxtid)
    assert client.channel.share.size >= before + session.CALL_OVERHEAD
    client.start('loadBefore', OID, maxtid)
    slow.answers[0].succeed(None)
    client.hang_up()
    slow.answers[1].succeed(None)
