"""The usual forms of the calls that are made most, without the general checks."""
from __future__ import annotations

import pickle

import pytest
from ZODB.MappingStorage import MappingStorage
from ZODB.utils import maxtid, p64, z64

from tests.server.desk import Desk
from zeo_clone.server.clients.methods import METHODS

KNOWN = p64(1)
#: The usual arguments, and some that are odd in most places.
USUAL = {'loadBefore': (KNOWN, maxtid), 'storea': (KNOWN, p64(5), b'data', 7),
         'tpc_begin': (7, b'user', b'description', {}, None, ' ')}
ODD = [p64(2), z64, b'', b'short', 'text of8', 'x', None, 7, 8, -1, 1 << 80, True, 7.0, (), (KNOWN,), [], {},
       {'a': 1}, ' ', b' ', 'p', 'pp', '\xe9']


def odd_ones(args):
    """`args`, all that differ from it in one place, and some of other lengths."""
    yield args
    for place in range(len(args)):
        yield args[:place]
        for odd in ODD:
            yield (*args[:place], odd, *args[place + 1:])
    yield (*args, None)


def outcome(name, args, oneway, registered, begun):
    """All that can be seen of a session after such a call."""
    desk = Desk({'1': MappingStorage()})
    writer = desk.connect()
    writer.begin(tid=p64(5))
    writer.store(KNOWN)
    writer.call('vote', 7)
    writer.call('tpc_finish', 7)
    client = desk.stranger()
    client.greet()
    if registered:
        client.call('register', '1', False)
    if begun:
        client.begin()
    client.take_notices()
    client.feed(pickle.dumps((0 if oneway else 1, oneway, name, tuple(args)), 3))
    replies, lost = [pickle.loads(data[4:]) for data in client.channel.out], client.lost
    transactor = client.member.transactor if client.member is not None else None
    state = None
    if transactor is not None:
        operations = getattr(transactor.phase, 'operations', None)
        state = (transactor.phase_name, transactor.meta, operations and list(operations),
                 repr(getattr(transactor.phase, '_error', None)))
    status = desk.served['1'].status()
    desk.close()
    return replies, lost, state, status


@pytest.mark.parametrize('oneway, registered, begun', [
    (False, True, False), (True, True, False), (True, True, True), (False, True, True), (True, False, False)])
@pytest.mark.parametrize('name', USUAL)
def test_a_usual_call_means_what_it_means_in_general(name, oneway, registered, begun, monkeypatch):
    """S5a: what needs no checks meets none, and nothing else is different."""
    calls = list(odd_ones(USUAL[name]))
    usual = [outcome(name, args, oneway, registered, begun) for args in calls]
    for usual_name in USUAL:
        monkeypatch.setitem(METHODS, usual_name, METHODS[usual_name]._replace(usual=None))
    for args, expected in zip(calls, usual, strict=True):
        assert outcome(name, args, oneway, registered, begun) == expected, args
