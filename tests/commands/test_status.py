"""zeo-status: T1, T2, N9; and the status that it shows."""
from __future__ import annotations

import contextlib
import functools
import json
import re

import pytest
import transaction
from ZODB.Connection import TransactionMetaData
from ZODB.MappingStorage import MappingStorage
from ZODB.TimeStamp import TimeStamp
from ZODB.utils import z64

import zeo_clone
from tests.support import inside
from tests.support.tool_process import run_at_terminal, run_tool
from zeo_clone.addresses import format_address
from zeo_clone.commands import status as zeo_status
from zeo_clone.commands import statustable
from zeo_clone.commands.health import ask
from zeo_clone.server import overview


@pytest.fixture
def show(capsys):
    """Run zeo-status in this process: (exit code, stdout, stderr)."""
    def run(*arguments):
        code = zeo_status.main([*map(str, arguments)])
        return code, *capsys.readouterr()
    return run


@pytest.fixture
def voted(server, client):
    """A client that holds the commit lock of `server`."""
    storage = client(server.addr, client_label='holder')
    meta = TransactionMetaData('jane', 'moves the world')
    storage.tpc_begin(meta)
    storage.store(z64, z64, b'cN\nN\n.', '', meta)
    storage.tpc_vote(meta)
    yield storage
    storage.tpc_abort(meta)  # nothing if the test has done it


# -- as a process -------------------------------------------------------------------------------------

def test_table_shows_storages_and_clients(server, client):
    client(server.addr, client_label='instance 1').server_status()
    code, out, err = run_tool('commands.status', format_address(server.addr))
    assert (code, err) == (0, '')
    assert out.startswith(f'server at {format_address(server.addr)}\n\nstorage 1: up ')
    assert ', empty\n' in out
    assert '  commit lock: free; transactions: 0, waiting: 0\n' in out
    assert '  clients: 1\n' in out
    assert 'instance 1' in out
    assert f'\nconnections: 2 of {server.limits.connections}, not registered: 1 of ' in out
    assert '\nwaiting for all: 0 B of 1.0 GB, closed because of it: 0\n' in out


def test_json_is_the_answer_of_the_server(server):
    code, out, err = run_tool('commands.status', '--json', format_address(server.addr))
    assert (code, err) == (0, '')
    assert json.loads(out)['1']['connections'] == 0


def test_server_that_cannot_be_reached_exits_with_1(closed_port):
    """T2"""
    assert run_tool('commands.status', closed_port) == (
        1, '', f'zeo-status: no answer from {closed_port}: Connection refused\n')


def test_mute_server_exits_with_1_after_the_timeout(mute_server):
    """T2"""
    assert run_tool('commands.status', '--timeout', '0.3', mute_server) == (
        1, '', f'zeo-status: no answer from {mute_server}: no answer within 0.3 s: connected, but it says '
        'nothing; perhaps it expects TLS, is no ZEO server, or hangs\n')


def test_watch_writes_over_itself_on_a_terminal(server):
    code, shown = run_at_terminal('commands.status', '--watch', '0.01', '--count', '2',
                                  format_address(server.addr))
    assert code == 0
    assert shown.count('\033[H\033[J') == 2
    assert 'loads 0 (0.0/s)' in shown
    assert re.search(r'server at \S+, \d{4}-\d\d-\d\d \d\d:\d\d:\d\d, every 0.01 s\r\n', shown)


@pytest.mark.parametrize('more', [['--watch'], ['--top', '--watch']])
def test_address_may_follow_watch(server, show, monkeypatch, more):
    """N9"""
    monkeypatch.setattr(zeo_status, 'WATCH_S', 0.01)
    code, out, _ = show('--count', '2', *more, format_address(server.addr))
    assert (code, out.count(', every 0.01 s')) == (0, 2)


def test_unix_socket_and_tls(new_server, tls_server, tls_options, tmp_path):
    """T1"""
    server = new_server(addr=str(tmp_path / 'zeo.sock'))
    assert run_tool('commands.status', server.addr)[0] == 0
    assert run_tool('commands.status', format_address(tls_server.addr), *tls_options)[0] == 0


@pytest.mark.parametrize('arguments', [[], ['here'], ['--watch', '0', '9100'], ['--ssl-ca', '/no', '9100']])
def test_mistake_on_the_command_line_exits_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        zeo_status.main(arguments)
    assert caught.value.code == 2
    assert 'zeo-status: error: ' in capsys.readouterr().err


# -- in this process ----------------------------------------------------------------------------------

def test_holder_of_the_commit_lock_is_named(server, voted, show):
    """L1"""
    code, out, _ = show(format_address(server.addr))
    assert code == 0
    assert '  commit lock: held by 127.0.0.1:' in out
    assert re.search(r" \(holder\) for [\d.]+ s, voted: user 'jane', 'moves the world'; "
                     r"transactions: 1, waiting: 0\n", out)


def test_commit_lock_that_is_held_for_long_is_an_alarm(server, voted):
    server.served['1'].stats.lock_time -= 39
    code, shown = run_at_terminal('commands.status', format_address(server.addr))
    assert code == 0
    assert re.search(r'\n\033\[1mwarning: storage 1: the commit lock has been held for [\d:]+ \w+ by', shown)


def test_rates_are_shown_from_the_second_time_on(server, show):
    zeo_clone.DB(server.addr).close()
    _, out, _ = show('--watch', '0.01', '--count', '2', format_address(server.addr))
    first, second = out.split('\n\nserver at ')
    assert 'commits 1,' in first
    assert '/s)' not in first
    assert 'commits 1 (0.0/s),' in second


def test_watch_goes_on_when_the_server_has_gone(server, closed_port, show, monkeypatch):
    places = iter([server.addr, ('127.0.0.1', int(closed_port.rpartition(':')[2])), server.addr])
    monkeypatch.setattr(zeo_status, 'ask', lambda _, *rest: ask(next(places), *rest))
    code, out, _ = show('--watch', '0.01', '--count', '3', format_address(server.addr))
    assert code == 0
    assert f'\n\nno answer from {closed_port}: Connection refused\n\nserver at ' in out


def test_watch_as_json_is_one_line_each_time(server, show):
    code, out, _ = show('--json', '--watch', '0.01', '--count', '2', format_address(server.addr))
    assert code == 0
    assert [list(json.loads(line)) for line in out.splitlines()] == [['1'], ['1']]


def test_ctrl_c_ends_a_watch_quietly(server, show, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt
    monkeypatch.setattr(zeo_status, 'ask', interrupt)
    assert show('--watch', '1', format_address(server.addr)) == (0, '', '')


def test_real_zeo_is_shown_as_far_as_it_tells(peer_server, show):
    zeo_clone.DB(peer_server.address).close()
    code, out, _ = show(format_address(peer_server.address))
    assert code == 0
    assert 'storage 1: since ' in out
    assert 'commits 1,' in out
    assert '  clients: ' in out


def test_asking_leaves_nothing_in_the_log_above_debug(server, show, caplog):
    """N9"""
    caplog.set_level('DEBUG')
    show(format_address(server.addr))
    server.close()
    assert [record for record in caplog.records if record.levelname != 'DEBUG'] == []


# -- what the server tells ----------------------------------------------------------------------------

def test_status_names_no_key_otherwise_than_zeo(server, client):
    """ZEO's keys, with its types; new ones come after them."""
    status = client(server.addr).server_status()
    assert list(status)[:13] == [
        'connections', 'loads', 'stores', 'commits', 'aborts', 'active_txns', 'lock_time', 'conflicts',
        'conflicts_resolved', 'start', 'waiting', 'timeout-thread-is-alive', 'last-transaction']
    assert json.loads(json.dumps(status)) == status


def test_client_is_described(server, client):
    storage = client(server.addr, client_label='me')
    storage.new_oid()
    described, = storage.server_status()['clients']
    assert described['address'].startswith('127.0.0.1:')
    assert described['label'] == 'me'
    assert described['protocol'] == 'Z5'
    assert described['read_only'] is False
    assert described['transaction'] == 'idle'
    assert 0 <= described['age'] < 60
    assert described['received'] > 50
    assert described['sent'] > 800  # a hundred oids


def test_only_so_many_clients_are_described(new_server, client, monkeypatch):
    monkeypatch.setattr(overview, 'MAX_CLIENTS', 2)
    server = new_server()
    for _ in range(3):
        storage = client(server.addr)
    status = storage.server_status()
    assert status['connections'] == 3
    assert len(status['clients']) == 2
    assert '    and 1 more' in statustable.table('', statustable.Sample({'1': status}, 0), None)


def test_waiting_clients_are_named_in_their_order(server, voted, client, monkeypatch):
    monkeypatch.setattr(overview, 'MAX_WAITING', 1)
    runtime, served, voting = zeo_clone.loop.runtime.REAL, server.served['1'], []
    for number in (1, 2):
        storage, meta = client(server.addr, client_label=f'waiting {number}'), TransactionMetaData()
        storage.tpc_begin(meta)
        vote = functools.partial(storage.tpc_vote, meta)
        voting.append((storage, meta, runtime.start_thread(vote, f'vote {number}')))
        while served.status()['waiting'] < number:
            runtime.event().wait(0.001)
    status = served.status()
    lines = statustable.table('', statustable.Sample({'1': status}, 0), None)
    assert len(status['waiting_clients']) == 1
    assert any(line.startswith('  waiting: 127.0.0.1:') and line.endswith(' (waiting 1) and 1 more')
               for line in lines)
    voted.tpc_abort(voted.tpc_transaction())
    for storage, meta, thread in voting:
        thread.join()
        storage.tpc_abort(meta)


def test_invalidations_and_verifications_are_counted(new_server, client, caplog):
    server = new_server(invalidation_queue_size=1)
    with contextlib.closing(zeo_clone.connection(server.addr)) as conn:
        conn.root()['x'] = 1
        transaction.commit()
    storage = client(server.addr, client_label='me')
    assert storage.server_status()['invalidations'] == 2
    ask = functools.partial(inside.link(storage).channel.call, 'getInvalidations')
    last = storage.lastTransaction()
    for tid, answer in [(last, (last, [])), (b'\0' * 7 + b'\1', None), (b'\x7f' * 8, None)]:
        assert ask((tid,)) == answer
    status = storage.server_status()
    assert (status['verifications'], status['verifications_failed']) == (3, 2)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == 'WARNING']
    assert [text.partition(' (me): ')[2] for text in warnings] == [
        "its cache is older than what is remembered (invalidation-queue-size) and is dropped (storage '1')",
        "its cache is newer than the storage and is dropped (storage '1')"]


def test_pack_shows_while_it_lasts(new_server, client):
    begun, end = (zeo_clone.loop.runtime.REAL.event() for _ in range(2))

    class Slow(MappingStorage):
        def pack(self, t, referencesf):
            begun.set()
            end.wait()

    server = new_server({'1': Slow()})
    storage = client(server.addr)
    assert storage.server_status()['packing'] is None
    thread = zeo_clone.loop.runtime.REAL.start_thread(storage.pack, 'pack')
    begun.wait()
    status = client(server.addr).server_status()
    assert status['packing'] >= 0
    assert ', being packed for 0 s' in statustable.table('', statustable.Sample({'1': status}, 0), None)[2]
    end.set()
    thread.join()
    assert storage.server_status()['packing'] is None


# -- the table ----------------------------------------------------------------------------------------

@pytest.mark.parametrize(('seconds', 'text'), [
    (0, '0 s'), (59.9, '59 s'), (60, '1:00 min'), (3599, '59:59 min'), (3600, '1:00:00 h'),
    (86399, '23:59:59 h'), (86400 * 3 + 7260, '3 d 2:01 h')])
def test_durations_are_told_for_people(seconds, text):
    assert statustable.format_age(seconds) == text


@pytest.mark.parametrize(('size', 'text'), [(0, '0 B'), (1023, '1023 B'), (1024, '1.0 KB'),
                                            (5 << 19, '2.5 MB'), (5 << 40, '5120.0 GB')])
def test_sizes_are_told_for_people(size, text):
    assert statustable.format_bytes(size) == text


def test_time_of_a_tid_is_that_of_zodb():
    tid = TimeStamp(2024, 12, 31, 23, 59, 58.0).raw()
    assert statustable.tid_time(tid.hex()) == '2024-12-31 23:59:58'


@pytest.mark.parametrize('values', [
    {}, {'last-transaction': 'x'}, {'last-transaction': 'f' * 16}, {'lock_time': 1.0},
    {'failed': 'tpc_finish: broken'}, {'clients': [{}], 'connections': 1}, {'loads': 'many'},
])
def test_table_takes_whatever_a_server_tells(values):
    lines = statustable.table('', statustable.Sample({'1': values}, 0), None)
    assert [line for line in lines if line.startswith('storage 1: ')]


def test_hit_rate_of_a_clients_cache_is_shown():
    values = {'clients': [{'label': 'a', 'hits': 3, 'misses': 1}, {'label': 'b'}], 'connections': 2}
    lines = statustable.table('', statustable.Sample({'1': values}, 0), None)
    assert [line.split()[-2:] for line in lines if line.startswith('     ')][:1] == [['75', '%']]
    assert sum(' %' in line for line in lines) == 1


def test_labels_cannot_do_anything_to_the_terminal():
    values = {'clients': [{'label': '\033[2Jgone'}], 'connections': 1}
    text = '\n'.join(statustable.table('', statustable.Sample({'1': values}, 0), None))
    assert '\033' not in text
    assert '?[2Jgone' in text


def test_commit_moves_the_numbers(server, show):
    with contextlib.closing(zeo_clone.connection(server.addr)) as conn:
        conn.root()['x'] = 1
        transaction.commit()
        _, out, _ = show(format_address(server.addr))
    assert 'commits 2,' in out
    assert 'last transaction 20' in out


# -- disconnecting clients ------------------------------------------------------------------------------

@pytest.fixture
def at_unix_socket(new_server, tmp_path):
    return new_server(addr=str(tmp_path / 'socket'))


def test_a_client_is_disconnected(at_unix_socket, client, caplog):
    storage = client(at_unix_socket.addr, client_label='instance 1')
    link = inside.link(storage)
    code, out, err = run_tool('commands.status', at_unix_socket.addr, '--disconnect', 'instance 1')
    assert (code, err) == (0, '')
    assert out.startswith('disconnected unix socket, pid ')
    assert out.endswith(' (instance 1)\n')
    assert link.channel.buried.wait(60)
    assert 'disconnected by the operator (' in caplog.text


def test_whoever_holds_the_lock_is_disconnected(at_unix_socket, client, show):
    storage = client(at_unix_socket.addr, client_label='slow')
    meta = TransactionMetaData()
    storage.tpc_begin(meta)
    storage.tpc_vote(meta)
    code, out, err = show(at_unix_socket.addr, '--json', '--disconnect', 'holder', '--storage', '1')
    assert (code, err) == (0, '')
    assert json.loads(out)['disconnected'].endswith('(slow)')
    with pytest.raises(zeo_clone.Exceptions.ClientDisconnected):
        storage.tpc_finish(meta)
    assert show(at_unix_socket.addr, '--disconnect', 'holder') == (
        3, '', 'zeo-status: nobody holds the commit lock\n')


def test_exit_code_tells_that_nobody_was_disconnected(at_unix_socket, server, client, show, closed_port,
                                                      saying_server):
    """T2."""
    for _ in range(2):
        client(at_unix_socket.addr, client_label='same')
    code, out, err = show(at_unix_socket.addr, '--disconnect', 'same')
    assert (code, out) == (3, '')
    assert "2 clients fit 'same', and nothing was done: unix socket, pid" in err
    code, out, err = show(format_address(server.addr), '--disconnect', 'x')
    assert (code, out) == (3, '')
    assert 'allow-disconnect is set in <zeo>' in err
    assert show(at_unix_socket.addr, '--disconnect', 'x' * 2000)[0] == 3
    code, out, err = show(closed_port, '--disconnect', 'x')
    assert (code, out) == (1, '')
    assert err == f'zeo-status: no answer from {closed_port}: Connection refused\n'
    for answer in (b'\0\0\0\2[]', b'\0\0\0\x0b{"error": 1}', b'\0\0\0\1x'):
        assert show(saying_server(b'\0\0\0\2Z5' + answer), '--disconnect', 'x')[0] == 1


def test_texts_of_a_server_cannot_do_anything_to_a_terminal(saying_server, show):
    answer = json.dumps({'error': 'a\x1b[31m'}).encode()
    place = saying_server(b'\0\0\0\2Z5\0\0\0' + bytes([len(answer)]) + answer)
    code, out, err = show(place, '--disconnect', 'x')
    assert (code, err) == (3, 'zeo-status: a?[31m\n')


@pytest.mark.parametrize('arguments', [['--storage', '1'], ['--disconnect', 'x', '--watch'],
                                       ['--disconnect']])
def test_options_that_do_not_fit_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        zeo_status.main(['localhost:1', *arguments])
    assert caught.value.code == 2
    assert '--' in capsys.readouterr().err
