"""zeo-status --top."""
from __future__ import annotations

import contextlib
import re

import pytest

import zeo_clone
from tests.support.tool_process import run_tool
from zeo_clone.addresses import format_address
from zeo_clone.commands import status as zeo_status
from zeo_clone.commands import top
from zeo_clone.commands.statustable import Sample


def client(label, loads, commits, received=0, sent=0, address='10.0.0.1:5'):
    return {'address': address, 'label': label, 'loads': loads, 'commits': commits, 'received': received,
            'sent': sent}


def values(*clients, **more):
    return {'1': {'connections': len(clients), 'clients': list(clients), **more}}


def test_busiest_client_comes_first_with_what_it_did_in_a_second():
    before = Sample(values(client('a', 100, 0), client('b', 0, 10)), 10.0)
    now = Sample(values(client('a', 120, 0), client('b', 400, 20, 0, 4 << 20)), 12.0)
    lines = top.busiest('server', now, before)
    assert lines[:3] == ['server', '', 'storage 1: 210.0 loads/s, 5.0 commits/s']
    assert [line.split() for line in lines[4:]] == [
        ['10.0.0.1:5', 'b', '200.0', '5.0', '0', 'B', '2.0', 'MB'],
        ['10.0.0.1:5', 'a', '10.0', '0.0', '0', 'B', '0', 'B']]


def test_clients_of_one_name_are_added_up_and_a_new_one_counts_from_its_begin(monkeypatch):
    monkeypatch.setattr(top, 'MAX_CLIENTS', 1)
    before = Sample(values(client('', 1, 0)), 0.0)
    now = Sample(values(client('', 2, 0), client('', 10, 0), client('new', 3, 0)), 1.0)
    lines = top.busiest('', now, before)
    assert lines[2] == 'storage 1: 14.0 loads/s, 0.0 commits/s'
    assert lines[4].split()[:2] == ['10.0.0.1:5', '11.0']
    assert lines[5] == '    and 1 more'


def test_objects_and_conflicts_are_told_with_their_classes():
    hot = {'loads': 4096, 'objects': [['00ff', 4000, 'a.B'], ['01', 2, None]]}
    lines = top.busiest('', Sample(values(hot=hot, conflict_classes={'a.B': 1, 'c.D\x1b': 30}), 0.0), None)
    assert '  of the last 4,096 loads:' in lines
    assert [line.split() for line in lines if ' 0x' in line] == [
        ['0x00ff', '4,000', 'a.B'], ['0x01', '2', 'not', 'known', 'yet']]
    assert lines[-1] == '  conflicts since the start: c.D? 30, a.B 1'


@pytest.mark.parametrize(('status', 'line'), [
    ({}, 'no client is connected, and nothing has been loaded'),
    ({'1': {'connections': 0, 'hot': {'loads': 0, 'objects': []}}},
     'no client is connected, and nothing has been loaded'),
    ({'1': {'connections': 0, 'loads': 7}},  # ZEO's
     'no client is connected, and this server does not tell what has been loaded'),
    ({'1': {'connections': 3}}, 'storage 1: this server does not tell what each client does'),
])
def test_server_that_has_nothing_to_tell(status, line):
    assert top.busiest('', Sample(status, 1.0), Sample(status, 0.0))[-1] == line


def test_server_without_clients_tells_what_they_have_loaded():
    hot = {'loads': 4096, 'objects': [['01', 2, 'a.B']]}
    lines = top.busiest('', Sample(values(hot=hot), 1.0), Sample(values(hot=hot), 0.0))
    assert lines[2:4] == ['storage 1: no client is connected', '  of the last 4,096 loads:']


def test_trouble_comes_first_here_too():
    lines = top.busiest('server', Sample(values(client('', 1, 1), waiting=4), 1.0), None)
    assert lines[1] == 'warning: storage 1: 4 transactions wait for the commit lock'


def test_command_asks_twice_for_rates(server, monkeypatch, capsys):
    monkeypatch.setattr(zeo_status, 'TOP_S', 0.01)
    with contextlib.closing(zeo_clone.connection(server.addr, client_label='me')) as connection:
        connection.root()
        assert zeo_status.main([format_address(server.addr), '--top']) == 0
    out = capsys.readouterr().out
    assert re.search(r'^storage 1: 0.0 loads/s, 0.0 commits/s$', out, re.MULTILINE)
    assert re.search(r'^    127.0.0.1:\d+ +me +0.0 +0.0 +0 B +0 B$', out, re.MULTILINE)
    assert re.search(r'^    0x0{16} +\d+ +', out, re.MULTILINE)


def test_command_goes_on_with_watch(server):
    code, out, _ = run_tool('commands.status', format_address(server.addr), '--top', '--watch', '0.01',
                            '--count', '2')
    assert (code, out.count('server at ')) == (0, 2)


@pytest.mark.parametrize('more', ['--json', '--doctor'])
def test_options_that_do_not_fit_are_refused(more, capsys):
    with pytest.raises(SystemExit) as caught:
        zeo_status.main(['localhost:1', '--top', more])
    assert caught.value.code == 2
    assert 'exclude each other' in capsys.readouterr().err
