"""Troubles that are staged for real: what page, status, doctor, nagios, log and alert rules make of each."""
from __future__ import annotations

import contextlib
import datetime
import json
import pickle
import re
import socket
import threading
from collections import namedtuple

import pytest
import trustme
from prometheus_client.parser import text_string_to_metric_families
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from tests.docs.pages import blocks
from tests.monitor.conftest import get
from zeo_clone.addresses import format_address
from zeo_clone.commands import doctor, nagios
from zeo_clone.commands import status as zeo_status
from zeo_clone.commands.statustable import Loud, Sample, table
from zeo_clone.configuration.tlsfiles import TLSFiles
from zeo_clone.loop.certificates import RenewedContext
from zeo_clone.loop.runtime import Runtime
from zeo_clone.zrpc.frames import frame

OID, NOW = b'\0' * 7 + b'\1', b'\x7f' + b'\xff' * 7
LARGE = b'cN\nN\n.' + b'x' * (1 << 20)
RULES = dict(re.findall(r'- alert: (\w+)\n +expr: (.*)', next(
    block.text for block in blocks('operations.md') if block.words == ('rules.yml',))))
#: What Prometheus itself must have counted.
NOT_HERE = {'ZeoDown', 'ZeoLoadsSlow'}
Usage = namedtuple('Usage', 'total used free')


class World(Runtime):
    """Its clocks can be put forward; its disks are as full as a test wants."""

    def __init__(self):
        self.ahead_s = 0.0
        self.free = 50

    def monotonic(self):
        return super().monotonic() + self.ahead_s

    def time(self):
        return super().time() + self.ahead_s

    def disk_usage(self, path):
        return Usage(100, 100 - self.free, self.free)


class Broken(MappingStorage):

    def tpc_finish(self, transaction, func=lambda tid: None):
        raise OSError(28, 'No space left on device')


class Packing(MappingStorage):
    """It packs until it is told to stop."""

    def __init__(self):
        super().__init__()
        self.end = threading.Event()

    def pack(self, t, referencesf):
        self.end.wait()


class Stage:
    """A server, and clients that are no more than what they say."""

    def __init__(self, new_server, tmp_path):
        self.world = World()
        self.tmp_path = tmp_path
        self.clients = contextlib.ExitStack()
        self._new_server = new_server

    def serve(self, storage=None, **options):
        storages = {'main': MappingStorage() if storage is None else storage}
        self.server = self._new_server(storages, measure=True, runtime=self.world,
                                       **{'transaction_timeout': 0, **options})

    def say(self, label, *calls):
        """A client that says all this and reads nothing."""
        sock = self.clients.enter_context(socket.socket())
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # what nobody reads waits at the server
        sock.connect(self.server.addr)
        before = [(0, False, 'register', ('main', False)), (0, True, 'set_client_label', (label,))]
        sock.sendall(frame(b'Z5') + b''.join(
            frame(pickle.dumps((number, *call[1:]), 3)) for number, call in enumerate([*before, *calls], 1)))

    def transaction(self, label, *more):
        one_way = [('tpc_begin', (7, b'jane', b'/site/edit', {}, None, ' ')),
                   ('storea', (OID, bytes(8), LARGE, 7))]
        self.say(label, *[(0, True, *call) for call in one_way], (0, False, 'vote', (7,)), *more)

    def until(self, condition):
        while not condition(self.server.server_status('main')):
            threading.Event().wait(0.001)

    def later(self, seconds):
        """So much time has passed, and the loop has looked at the clock."""
        self.world.ahead_s += seconds
        looked = threading.Event()
        self.server.call_in_loop(looked.set)  # a turn of the loop, after which timers are due ...
        assert looked.wait(60)
        again = threading.Event()
        self.server.call_in_loop(again.set)  # ... and have been called
        assert again.wait(60)


def held_lock(stage, waiting=0, seconds=6):
    stage.serve()
    stage.transaction('instance 1')
    stage.until(lambda status: status['lock_holder'] and status['lock_holder']['phase'] == 'voted')
    for number in range(waiting):
        stage.transaction(f'waiting {number}')
        stage.until(lambda status, number=number: status['waiting'] > number)
    stage.later(seconds)


def held_lock_and_somebody_waits(stage):
    held_lock(stage, waiting=1)


def four_wait(stage):
    held_lock(stage, waiting=4, seconds=0)


def transaction_timeout(stage):
    stage.serve(transaction_timeout=30)
    stage.transaction('instance 1')
    stage.until(lambda status: status['lock_holder'] and status['lock_holder']['phase'] == 'voted')
    stage.later(6)
    stage.later(31)
    stage.until(lambda status: status['timeouts'])


def committed(stage, **options):
    stage.serve(**options)
    stage.transaction('writer', (0, False, 'tpc_finish', (7,)))
    stage.until(lambda status: status['commits'])
    stage.clients.close()
    stage.until(lambda status: not status['connections'])


def client_that_does_not_read(stage):
    committed(stage)
    stage.say('mute', *[(0, False, 'loadBefore', (OID, NOW))] * 100)
    stage.until(lambda status: status['clients'] and status['clients'][0]['queued'])
    stage.until(lambda status: status['clients'][0]['stalled'] >= 15 or stage.later(5))
    stage.later(20)


def memory_limit(stage):
    committed(stage, memory_limit=8 << 20)
    for _ in range(20):  # each is given a little more than it reads
        stage.say('mute', *[(0, False, 'loadBefore', (OID, NOW))] * 20)
    stage.until(lambda status: status['memory_closed'])


def full_disk(stage):
    stage.world.free = 0
    stage.serve(FileStorage(str(stage.tmp_path / 'Data.fs')))
    stage.until(lambda status: status['sizes'])
    stage.later(20)


def disk_that_fills_up(stage):
    stage.world.free = 3
    stage.serve(FileStorage(str(stage.tmp_path / 'Data.fs')))
    stage.until(lambda status: status['sizes'])
    stage.later(20)


def failed_storage(stage):
    stage.serve(Broken())
    stage.transaction('instance 1', (0, False, 'tpc_finish', (7,)))
    stage.until(lambda status: status['failed'])


def dropped_cache(stage):
    stage.serve()
    stage.say('was away', (0, False, 'getInvalidations', (b'\0' * 7 + b'\1',)))
    stage.until(lambda status: status['verifications_failed'])


def no_room_for_connections(stage):
    stage.serve(max_connections=1)
    stage.say('first')
    stage.until(lambda status: status['connections'])
    with socket.create_connection(stage.server.addr) as sock:
        while sock.recv(1000):
            pass


def certificate_that_ends(stage):
    soon = datetime.datetime.now() + datetime.timedelta(days=3)
    path = stage.tmp_path / 'server.pem'
    leaf = trustme.CA().issue_cert('localhost', not_after=soon)
    leaf.private_key_and_cert_chain_pem.write_to_path(str(path))
    stage.serve(ssl=RenewedContext(TLSFiles(True, str(path))))
    stage.later(20)


def pack_that_takes_long(stage):
    storage = Packing()
    stage.serve(storage)
    stage.clients.callback(storage.end.set)
    stage.say('cron', (0, False, 'pack', (1.0, True)))
    stage.until(lambda status: status['packing'] is not None)
    stage.later(3600)


STAGES = {
    held_lock: ('lock', False, 'has held the commit lock', {'ZeoCommitLockHeld'}),
    held_lock_and_somebody_waits: ('lock', True, 'has held the commit lock', {'ZeoCommitLockHeld'}),
    four_wait: ('waiting', False, 'transactions waiting', {'ZeoManyWaiting'}),
    transaction_timeout: ('timeout', False, 'Transaction timeout', {'ZeoTransactionTimeout'}),
    client_that_does_not_read: ('stalled', False, 'nothing has been read for', {'ZeoClientStalled'}),
    memory_limit: ('memory', False, '(memory-limit)', {'ZeoNoRoom'}),
    full_disk: ('disk', True, 'the disk is full', {'ZeoDiskFull', 'ZeoDiskFillsUp'}),
    disk_that_fills_up: ('disk', False, 'the disk is filling up', {'ZeoDiskFillsUp'}),
    failed_storage: ('failed', True, 'failed in tpc_finish', {'ZeoStorageFailed'}),
    dropped_cache: ('verification', False, 'its cache is ', {'ZeoCachesDropped'}),
    no_room_for_connections: ('connections', False, 'refused: there are',
                              {'ZeoNoRoom', 'ZeoConnectionsUsed'}),
    certificate_that_ends: ('tls', False, 'its certificate ends in', {'ZeoCertificateEnds'}),
    pack_that_takes_long: ('pack', False, 'it has been packed for 1:', {'ZeoPackTakesLong'}),
}


def alerts(metrics):
    """Names of the rules that hold, for a server that has been started just now."""
    values = {}
    for family in text_string_to_metric_families(metrics):
        for sample in family.samples:
            values[sample.name] = max(sample.value, values.get(sample.name, 0.0))
    found = set()
    for name, rule in RULES.items():
        expression = re.sub(r'increase\((\w+)\[\w+\]\)', r'\1', rule)
        if name not in NOT_HERE and all(one in values for one in re.findall(r'zeo_\w+', expression)):
            if eval(expression, {'__builtins__': {}}, values):
                found.add(name)
    return found


@pytest.mark.parametrize('play', STAGES, ids=lambda play: play.__name__)
def test_trouble_is_told_the_same_everywhere(play, new_server, new_monitor, tmp_path, caplog):
    """L1, L9, S12, S13, N8: by page, status, doctor, nagios, log and alert rules."""
    kind, bad, words, rules = STAGES[play]
    stage = Stage(new_server, tmp_path)
    with stage.clients:
        play(stage)
        monitor = new_monitor(stage.server)
        page = json.loads(get(monitor.address, '/status.json')[2])
        metrics = get(monitor.address, '/metrics')[2]
        status = stage.server.ruok()
    trouble = next(one for one in page['troubles'] if one['kind'] == kind)
    assert trouble['bad'] is bad
    loud = [line for line in table('', Sample(status, 0.0), None) if isinstance(line, Loud)]
    assert any(f': {trouble["text"][:30]}' in line and line.bad is bad for line in loud)
    assert any(one.kind == kind and one.advice for one in doctor.examine(status, 0.0))
    messages, code = nagios.judge(status)
    assert any(trouble['text'][:30] in message for message in messages)
    assert code == (nagios.CRITICAL if bad else nagios.WARNING)
    assert any(words in message for message in caplog.messages)
    assert rules <= alerts(metrics)


def test_server_in_good_health_is_no_trouble(new_server, new_monitor, tmp_path):
    stage = Stage(new_server, tmp_path)
    committed(stage)
    monitor = new_monitor(stage.server)
    assert json.loads(get(monitor.address, '/status.json')[2])['troubles'] == []
    assert alerts(get(monitor.address, '/metrics')[2]) == set()
    assert nagios.judge(stage.server.ruok()) == (['OK'], nagios.OK)
    assert doctor.examine(stage.server.ruok(), 0.0) == []


def test_server_that_is_away_is_told_by_all_who_ask(new_server, tmp_path, capsys):
    """T2.  The page says it in a browser, in another test; the rule is ``up == 0``."""
    stage = Stage(new_server, tmp_path)
    stage.serve()
    stage.server.close()
    address = format_address(stage.server.addr)
    assert zeo_status.main([address]) == zeo_status.main([address, '--doctor']) == 1
    assert nagios.main([address]) == nagios.CRITICAL
    assert capsys.readouterr().out == f"Can't connect {address}: Connection refused\n"
    assert RULES['ZeoDown'] == 'up{job="zeo"} == 0'
