"""What is measured of a storage, and that nothing is if nobody asked for it."""
from __future__ import annotations

import pytest
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import ConflictError, POSKeyError

from tests.server.desk import ClockRuntime, Desk
from zeo_clone.server.latency import BOUNDS_S, Histogram

OID = bytes(8)
NOW = b'\x7f' + b'\xff' * 7
NAMES = ('load', 'lock_wait', 'vote', 'finish')


class Slow(MappingStorage):
    """Every step takes its time, of a clock that is moved."""

    def __init__(self, runtime):
        super().__init__()
        self._runtime = runtime

    def loadBefore(self, oid, tid):
        self._runtime.now += 0.003
        return super().loadBefore(oid, tid)

    def tpc_vote(self, transaction):
        self._runtime.now += 0.2
        return super().tpc_vote(transaction)

    def tpc_finish(self, transaction, func=lambda tid: None):
        self._runtime.now += 0.7
        return super().tpc_finish(transaction, func)


def slow_desk(monkeypatch):
    """A desk whose storage takes time of the desk's own clock."""
    runtime = ClockRuntime()
    monkeypatch.setattr('tests.server.desk.ClockRuntime', lambda: runtime)
    return Desk({'1': Slow(runtime)}, measure=True)


def latency(desk):
    """``{name: (how many, seconds together)}``"""
    measured = desk.served['1'].status()['latency']
    return {name: (sum(measured[name]['counts']), pytest.approx(measured[name]['sum'])) for name in NAMES}


def test_durations_are_counted_up_to_and_with_the_upper_end_of_their_bucket():
    histogram = Histogram()
    for seconds in (0.0, BOUNDS_S[0], BOUNDS_S[0] * 1.001, BOUNDS_S[-1], 31.0):
        histogram.observe(seconds)
    found = histogram.as_dict()
    assert len(found['counts']) == len(BOUNDS_S) + 1
    assert [found['counts'][0], found['counts'][1], found['counts'][-2], found['counts'][-1]] == [2, 1, 1, 1]
    assert sum(found['counts']) == 5
    assert found['sum'] == pytest.approx(61.00002001)
    assert list(BOUNDS_S) == sorted(set(BOUNDS_S))


def test_steps_of_a_commit_are_told_apart_and_waiting_for_the_lock_is_apart(monkeypatch):
    desk = slow_desk(monkeypatch)
    holder, other = desk.connect(), desk.connect()
    for client in (holder, other):
        client.begin()
        client.store(OID if client is holder else b'1' * 8)
    holder.call('vote', 7)
    desk.runtime.now += 50  # the client takes its time, which is nobody's
    vote = other.start('vote', 7)
    desk.runtime.now += 4
    holder.call('tpc_finish', 7)
    other.result(vote)
    assert latency(desk) == {'load': (0, 0), 'lock_wait': (2, 4.7), 'vote': (2, 0.4), 'finish': (1, 0.7)}


def test_loads_are_measured_in_both_of_their_forms(monkeypatch):
    desk = slow_desk(monkeypatch)
    client = desk.connect()
    client.commit(OID)
    client.call('loadBefore', OID, NOW)
    client.call('loadBefore', OID.decode(), NOW)  # old clients send texts
    assert latency(desk)['load'] == (2, 0.006)


def test_what_fails_is_not_measured():
    desk = Desk(measure=True)
    client, other = desk.connect(), desk.connect()
    client.commit(OID)
    before = latency(desk)
    with pytest.raises(POSKeyError):
        client.call('loadBefore', b'1' * 8, NOW)
    client.begin()
    client.store(OID)  # which is there already
    with pytest.raises(ConflictError):
        client.call('vote', 7)
    client.call('tpc_abort', 7)
    assert latency(desk)['load'] == before['load'] == (0, 0)
    assert latency(desk)['vote'] == before['vote'] == (1, 0)
    for one in (client, other):
        one.begin(8)
        one.start('vote', 8)
    other.call('tpc_abort', 8)  # while it waits
    assert latency(desk)['lock_wait'] == (3, 0)


def test_without_metrics_nothing_is_measured_and_a_load_does_not_look_at_the_clock(monkeypatch):
    desk = Desk()
    client = desk.connect()
    client.commit(OID)
    assert client.member.reader is desk.storages['1']

    def refuse():
        raise AssertionError('somebody looked at the clock')
    monkeypatch.setattr(desk.runtime, 'monotonic', refuse)
    assert client.call('loadBefore', OID, NOW)[0] == b'data'
    monkeypatch.undo()
    assert 'latency' not in desk.served['1'].status()


def test_clients_are_told_what_was_measured():
    client = Desk(measure=True).connect()
    assert client.call('server_status')['latency']['bounds'] == list(BOUNDS_S)
