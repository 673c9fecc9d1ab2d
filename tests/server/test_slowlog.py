"""The slow log: who waited how long, in which phase, for what."""
from __future__ import annotations

import re

import pytest
from ZODB.MappingStorage import MappingStorage

from tests.server.desk import ClockRuntime, Desk

OID = b'\0' * 7 + b'\1'
NOW = b'\x7f' + b'\xff' * 7
RECORD = b'cpersistent.mapping\nPersistentMapping\n.}.'


class Slow(MappingStorage):
    """Reads and finishes in a time of its own."""

    load_s = finish_s = 0.0

    def __init__(self, runtime):
        super().__init__()
        self._runtime = runtime

    def loadBefore(self, oid, tid):
        self._runtime.now += self.load_s
        return super().loadBefore(oid, tid)

    def tpc_finish(self, transaction, func=lambda tid: None):
        self._runtime.now += self.finish_s
        return super().tpc_finish(transaction, func)


@pytest.fixture
def desk():
    runtime = ClockRuntime()
    desk = Desk({'main': Slow(runtime)}, runtime=runtime, slow_commit_s=1.0, slow_load_s=0.1, timeout_s=0)
    yield desk
    desk.close()


def lines(caplog):
    return [record.getMessage() for record in caplog.records if record.name == 'zeo_clone.slow']


def begin(client, user=b'jane', description=b'/site/edit'):
    client.oneway('tpc_begin', 7, user, description, {}, None, ' ')


def test_commit_that_waited_for_the_lock_names_who_held_it(desk, caplog):
    holder, other, late = desk.connect('main'), desk.connect('main'), desk.connect('main')
    for client, name in [(holder, 'instance 2'), (late, 'instance 1')]:
        client.oneway('set_client_label', name)
    for client in (holder, other, late):
        begin(client)
    holder.call('vote', 7)
    others = [client.start('vote', 7) for client in (other, late)]
    desk.runtime.now += 3
    holder.call('tpc_abort', 7)
    other.result(others[0])
    other.call('tpc_abort', 7)
    late.result(others[1])
    late.call('tpc_finish', 7)
    assert lines(caplog)[-1] == (
        "slow commit: peer:1 (instance 1): user 'jane', '/site/edit': 3.000 s in storage 'main', most of "
        'it for the commit lock, held by peer:1 (instance 2), and 1 more waited; committed (begun 0.000, '
        'waiting 3.000, replaying 0.000, voted 0.000, finishing 0.000)')
    assert 'most of it for the client, which had voted; it was not committed (begun' in lines(caplog)[0]


@pytest.mark.parametrize(('step', 'phase', 'words'), [
    ('begun', 'begun 2.000', 'the client, which sent its changes;'),
    ('voted', 'voted 2.000', 'the client, which had voted;'),
    ('finishing', 'finishing 2.000', 'the storage, in tpc_finish;'),
])
def test_phase_in_which_the_time_went_is_named(desk, caplog, step, phase, words):
    client = desk.connect('main')
    begin(client)
    desk.runtime.now += 2 * (step == 'begun')
    client.call('vote', 7)
    desk.runtime.now += 2 * (step == 'voted')
    desk.storages['main'].finish_s = 2 * (step == 'finishing')
    client.call('tpc_finish', 7)
    line, = lines(caplog)
    assert f'most of it for {words} committed (' in line
    assert phase in line
    assert len(re.findall(' 0.000', line)) == 4


def test_commit_that_is_quick_enough_or_fails_quickly_is_no_line(desk, caplog):
    client = desk.connect('main')
    begin(client)
    desk.runtime.now += 0.99
    client.call('vote', 7)
    client.call('tpc_finish', 7)
    client.oneway('storea', OID, bytes(8), 7, 7)  # no transaction: dooms nothing
    assert lines(caplog) == []


def test_transaction_that_had_failed_is_told_once(desk, caplog):
    client = desk.connect('main')
    begin(client)
    desk.runtime.now += 5
    client.oneway('storea', 'no oid', bytes(8), RECORD, 7)
    desk.runtime.now += 5
    client.call('tpc_abort', 7)
    line, = lines(caplog)
    assert 'it was not committed (begun 5.000)' in line


def test_load_that_took_long_names_object_and_class_and_what_went_on_besides(desk, caplog):
    client, holder = desk.connect('main'), desk.connect('main')
    client.oneway('tpc_begin', 7, b'', b'', {}, None, ' ')
    client.oneway('storea', OID, bytes(8), RECORD, 7)
    client.call('vote', 7)
    client.call('tpc_finish', 7)
    storage = desk.storages['main']
    client.call('loadBefore', OID, NOW)
    storage.load_s = 0.1
    client.call('loadBefore', OID, NOW)
    begin(holder)
    holder.call('vote', 7)
    client.call('load_batch', OID, NOW, 1000)
    assert lines(caplog) == [
        'slow load: peer:1: object 0x0000000000000001 (persistent.mapping.PersistentMapping, '
        f"{len(RECORD)} bytes) took 0.100 s in storage 'main'{more}"
        for more in ('', '; meanwhile peer:1 held its commit lock (voted)')]


def test_lines_of_one_host_are_counted(desk, caplog):
    """S16"""
    client = desk.connect('main')
    client.commit(OID)
    desk.storages['main'].load_s = 0.1
    for _ in range(50):
        client.call('loadBefore', OID, NOW)
    assert len(lines(caplog)) == 10


def test_without_limits_nothing_is_looked_at():
    desk = Desk()
    assert desk.connect().member.reader is desk.storages['1']
