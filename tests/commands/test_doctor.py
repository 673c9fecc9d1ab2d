"""zeo-status --doctor."""
from __future__ import annotations

import json

import pytest

import zeo_clone
from zeo_clone.addresses import format_address
from zeo_clone.commands import doctor
from zeo_clone.commands import status as zeo_status
from zeo_clone.server.latency import Latency

OURS = {'lock_holder': None}


def latency(key, seconds):
    measured = Latency(lambda: 0.0)
    for _ in range(doctor.ENOUGH):
        getattr(measured, key).observe(seconds)
    return {'latency': measured.as_dict()}


def client(**more):
    return {'clients': [{'address': '10.0.0.1:5', 'label': 'x', **more}]}


def kinds(values, took_s=0.0):
    return [trouble.kind for trouble in doctor.examine({'1': {**OURS, **values}}, took_s)]


@pytest.mark.parametrize(('values', 'kind'), [
    ({'failed': 'tpc_finish: broken'}, 'failed'),
    ({'last-transaction': '0' * 16}, 'empty'),
    ({'verifications': 20, 'verifications_failed': 2}, 'dropped'),
    ({'conflicts': 20, 'commits': 380, 'conflict_classes': {'a.B': 3}}, 'conflicts'),
    ({'sizes': {'data': 9e9, 'disks': [{'holds': 'database and blobs', 'free': 8e9, 'size': 1e11}]}}, 'room'),
    (latency('load', 0.1), 'loads'),
    (latency('finish', 2.5), 'finish'),
    (latency('finish', 99.0), 'finish'),
    (client(protocol='Z4'), 'peers'),
    ({'version': '2.0', **client(version='1.0')}, 'peers'),
    (client(hits=7_999, misses=2_001), 'cache'),
    ({'silent': 1}, 'silent'),
])
def test_finding(values, kind):
    assert kinds(values) == [kind]


@pytest.mark.parametrize('values', [
    {}, {'last-transaction': '0' * 15 + '1'}, {'last-transaction': '0' * 16, 'relay': {'away': 4.0}},
    {'verifications': 19, 'verifications_failed': 19},
    {'verifications': 100, 'verifications_failed': 9}, {'conflicts': 19, 'commits': 0},
    {'conflicts': 20, 'commits': 1000}, latency('load', 0.05), latency('finish', 1.0), client(protocol='Z5'),
    {'version': '1.0', **client(version='1.0')}, {'version': '1.0', **client(version=None)},
    client(hits=8_000, misses=2_000), client(hits=0, misses=9_999),
    {'latency': Latency(lambda: 0.0).as_dict()},
    {'sizes': {'data': 9e9, 'disks': [{'holds': 'blobs', 'free': 8e9, 'size': 1e11}]}},
])
def test_no_finding(values):
    assert kinds(values) == []


def test_slow_answer_foreign_server_and_server_without_storages_are_found():
    assert kinds({}, doctor.SLOW_ANSWER_S) == ['slow']
    assert [trouble.kind for trouble in doctor.examine({'1': {}}, 0.0)] == ['foreign']
    assert [trouble.kind for trouble in doctor.examine({}, 0.0)] == ['storages']


def test_findings_say_which_and_how_much():
    found, = doctor.examine({'1': {**OURS, **client(hits=5_000, misses=5_000)}}, 0.0)
    assert str(found) == 'storage 1: 10.0.0.1:5 (x): 50 % of its loads came from its cache'
    found, = doctor.examine({'1': {**OURS, **latency('load', 0.1)}}, 0.0)
    assert str(found) == 'storage 1: one in a hundred loads took 0.05 s or longer'


@pytest.fixture
def see(capsys, monkeypatch):
    """What it says, however slow this machine is."""
    monkeypatch.setattr(doctor, 'SLOW_ANSWER_S', float('inf'))

    def run(*arguments):
        code = zeo_status.main([*map(str, arguments), '--doctor'])
        return code, *capsys.readouterr()
    return run


def test_healthy_server_is_0_and_says_what_was_looked_at(server, see):
    zeo_clone.DB(server.addr).close()
    code, out, err = see(format_address(server.addr))
    assert (code, err) == (0, '')
    assert out.startswith('nothing found at 1 storage with 0 clients. Looked at: storages, commit lock, ')


def test_each_finding_is_a_line_with_what_to_do_and_the_exit_code_is_4(server, see):
    server.served['1'].backend.failures.latest = 'tpc_finish: OSError: \x1b[2J'
    code, out, _ = see(format_address(server.addr))
    assert code == 4
    assert out.splitlines()[0] == (
        'ALARM: storage 1: it has failed in tpc_finish: OSError: ?[2J. To do: look at its disk and at the '
        'log; the next commit that succeeds ends this alarm')
    assert out.splitlines()[1].startswith('warning: storage 1: it is empty. To do: ')
    assert out.splitlines()[2].startswith('2 found at ')


def test_findings_are_told_as_json_as_well(server, see):
    code, out, _ = see(format_address(server.addr), '--json')
    assert code == 4
    found, = json.loads(out)
    assert (found['kind'], found['bad'], found['storage']) == ('empty', False, '1')


def test_server_that_is_away_is_1(closed_port, see):
    """T2"""
    assert see(closed_port) == (1, '', f'zeo-status: no answer from {closed_port}: Connection refused\n')


def test_real_zeo_is_told_apart(peer_server, see):
    zeo_clone.DB(peer_server.address).close()
    code, out, _ = see(format_address(peer_server.address))
    assert code == 4
    assert 'warning: server: it is not a zeo_clone, and tells little about itself. To do: ' in out


@pytest.mark.parametrize('more', ['--watch', '--disconnect=x'])
def test_options_that_do_not_fit_are_refused(more, capsys):
    with pytest.raises(SystemExit) as caught:
        zeo_status.main(['localhost:1', '--doctor', more])
    assert caught.value.code == 2
    assert 'exclude each other' in capsys.readouterr().err
