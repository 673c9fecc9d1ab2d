"""zeopack: T1, T2."""
from __future__ import annotations

import contextlib
import datetime
import re
import threading

import pytest
import transaction
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import POSKeyError

import zeo_clone
from tests.storage.helpers import PackWaits
from tests.support.tool_process import run_at_terminal, run_tool
from zeo_clone.addresses import format_address
from zeo_clone.commands import pack as zeopack
from zeo_clone.commands import packing
from zeo_clone.commands.packing import Target

DAY_S = 86400


class PackRecorder(MappingStorage):
    """Remembers to what times it was packed."""

    def __init__(self):
        super().__init__()
        self.times = []

    def pack(self, t, referencesf):
        self.times.append(t)


class BadPacker(MappingStorage):
    def pack(self, t, referencesf):
        raise OSError(28, 'No space left on device')


def grow(address, storage='1', **options):
    """Ten revisions of a record; the tid of the first."""
    with contextlib.closing(zeo_clone.connection(address, storage=storage, **options)) as conn:
        for number in range(10):
            conn.root()['x'] = f'{number}' * 1000
            transaction.commit()
            if number == 0:
                return_tid = conn.root()._p_serial
        return return_tid


def revision_is_there(client, address, tid, **options):
    try:
        client(address, **options).loadSerial(b'\0' * 8, tid)
    except POSKeyError:
        return False
    return True


# -- as a process -------------------------------------------------------------------------------------

def test_pack_removes_old_revisions_and_says_nothing_about_it(server_process, client):
    tid = grow(server_process.address)
    assert revision_is_there(client, server_process.address, tid)
    assert run_tool('scripts.zeopack', format_address(server_process.address)) == (0, '', '')
    assert not revision_is_there(client, server_process.address, tid)


def test_young_revisions_are_kept(server_process, client):
    tid = grow(server_process.address)
    assert run_tool('scripts.zeopack', '-d', '1', format_address(server_process.address)) == (0, '', '')
    assert revision_is_there(client, server_process.address, tid)


def test_real_zeo_is_packed_too(peer_server, client):
    tid = grow(peer_server.address)
    assert run_tool('scripts.zeopack', format_address(peer_server.address)) == (0, '', '')
    assert not revision_is_there(client, peer_server.address, tid)


def test_progress_is_shown_on_a_terminal(server_process):
    grow(server_process.address)
    address = format_address(server_process.address)
    code, shown = run_at_terminal('scripts.zeopack', address)
    assert code == 0
    assert f'packed {address}:1 in ' in shown
    assert ' KB before, ' in shown


def test_unknown_storage_fails_at_once_and_the_others_are_packed(new_server):
    """T2"""
    storage = PackRecorder()
    address = format_address(new_server({'1': MappingStorage(), 'main': storage}).addr)
    code, out, err = run_tool('scripts.zeopack', f'{address}:nix', f'{address}:main')
    assert (code, out) == (1, '')
    assert err == f"zeopack: {address}:nix: no such storage; the server has '1', 'main'\n"
    assert len(storage.times) == 1


def test_server_that_cannot_be_reached_is_given_up(closed_port):
    """T2"""
    code, out, err = run_tool('scripts.zeopack', '--timeout', '0.5', closed_port)
    assert (code, out) == (1, '')
    assert err == f'zeopack: cannot reach {closed_port}: Connection refused\n'


def test_mute_server_is_given_up(mute_server):
    """T2"""
    code, out, err = run_tool('scripts.zeopack', '--timeout', '0.5', mute_server)
    assert (code, out) == (1, '')
    assert err.startswith(f'zeopack: cannot reach {mute_server}: no answer within ')


def test_ctrl_c_ends_it_with_a_line(closed_port, monkeypatch, capsys):
    """T2"""
    def interrupt(*_):
        raise KeyboardInterrupt
    monkeypatch.setattr(zeopack.Packer, 'pack', interrupt)
    assert zeopack.main(['--timeout', '0.1', closed_port]) == 130
    assert capsys.readouterr().err == (
        'zeopack: interrupted; zeo-clone status tells whether a server goes on packing\n')


def test_a_certificate_without_its_key_is_named(capsys, certificates):
    """T2"""
    with pytest.raises(SystemExit):
        zeopack.main(['--ssl-cert', str(certificates / 'ca.pem'), '9100'])
    assert 'ca.pem holds no private key: name its file with --ssl-key' in capsys.readouterr().err


def test_unix_socket_with_a_name(new_server, tmp_path):
    storage = PackRecorder()
    server = new_server({'main': storage}, addr=str(tmp_path / 'zeo.sock'))
    assert run_tool('scripts.zeopack', '-u', f'{server.addr}:main') == (0, '', '')
    assert run_tool('scripts.zeopack', '-u', './zeo.sock:main', cwd=tmp_path) == (0, '', '')
    assert len(storage.times) == 2


def test_tls(tls_server, tls_options):
    """T1"""
    address = format_address(tls_server.addr)
    assert run_tool('scripts.zeopack', *tls_options, address) == (0, '', '')


@pytest.mark.parametrize(('arguments', 'message'), [
    ([], 'nothing to pack: name a server as HOST:PORT, or with -u as PATH'),
    (['localhost'], "bad address 'localhost': the port is missing"),
    (['-d', '-1', '9100'], "'-1' is not a number of days"),
    (['-d', '400000', '9100'], "'400000' is not a number of days, from 0 to 20,000"),
    (['-t', '25:00', '9100'], "'25:00' is not a time of day: HH, HH:MM or HH:MM:SS"),
    (['-S', 'main'], '-S goes with -h, -p or -U'),
    (['-U', 'zeo.sock', '-p', '1'], '-U cannot be combined with -h and -p'),
    (['-p', '99999'], 'the port is a number from 0 to 65535'),
    (['--ssl-cert', '/no/cert.pem', '9100'], 'there is no file /no/cert.pem'),
])
def test_mistake_on_the_command_line_exits_with_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        zeopack.main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


# -- in this process ----------------------------------------------------------------------------------

def test_read_only_server_is_packed(new_server):
    """S7"""
    storage = PackRecorder()
    assert zeopack.main([format_address(new_server({'1': storage}, read_only=True).addr)]) == 0
    assert len(storage.times) == 1


def test_failure_of_the_server_is_told(new_server, capsys):
    """T2"""
    address = format_address(new_server({'1': BadPacker()}).addr)
    assert zeopack.main([address]) == 1
    assert capsys.readouterr().err == (
        f'zeopack: {address}:1: OSError: [Errno 28] the server cannot pack: No space left on device\n')


def test_a_storage_that_is_being_packed_is_an_error_that_names_the_packer(
        new_server, client, tmp_path, capsys):
    """L12, T2."""
    storage = PackWaits(str(tmp_path / 'Data.fs'))
    address = new_server({'1': storage}).addr
    client(address, client_label='nightly').pack(wait=False)
    try:
        assert zeopack.main([format_address(address)]) == 1
    finally:
        storage.go_on.set()
    assert re.search(r'^zeopack: .*already packing since .* by .* \(nightly\): ', capsys.readouterr().err)


def test_server_that_comes_later_is_waited_for(closed_port, new_server, monkeypatch):
    storage = PackRecorder()
    attempts = []

    def ask(address, timeout_s, tls=None):
        attempts.append(timeout_s)
        if len(attempts) == 2:
            new_server({'1': storage}, addr=closed_port)
        return real_ask(address, timeout_s, tls)

    real_ask = packing.ask
    monkeypatch.setattr(packing, 'ask', ask)
    monkeypatch.setattr(packing, 'RETRY_S', 0.01)
    assert zeopack.main([closed_port]) == 0
    assert len(attempts) == 2
    assert len(storage.times) == 1


def test_server_that_falls_silent_while_it_packs_is_given_up(new_server, monkeypatch, capsys):
    """T2"""
    stuck = zeo_clone.loop.runtime.REAL.event()

    class Stuck(MappingStorage):
        def pack(self, t, referencesf):
            stuck.wait()

    address = format_address(new_server({'1': Stuck()}).addr)
    answers = iter([{'1': {}}, {'1': {}}])  # one to begin with, and one while it packs

    def ask(*_):
        try:
            return next(answers)
        except StopIteration:
            raise packing.NoAnswer('silence') from None

    monkeypatch.setattr(packing, 'ask', ask)
    for name in ('PROGRESS_S', 'CHECK_S'):
        monkeypatch.setattr(packing, name, 0.01)
    assert zeopack.main([address]) == 1
    stuck.set()
    assert capsys.readouterr().err == f'zeopack: {address}:1: NoAnswer: silence\n'


def test_all_servers_are_connected_to_at_once(monkeypatch, capsys):
    """So that those that cannot be reached cost the time-out once."""
    together = threading.Barrier(3, timeout=20)

    def ask(*_):
        together.wait()  # only three at a time get past it
        raise packing.NoAnswer('nobody there')

    monkeypatch.setattr(packing, 'ask', ask)
    assert zeopack.main(['--timeout', '0.1', 'a:1', 'b:1', 'c:1']) == 1
    assert capsys.readouterr().err == 3 * 'zeopack: cannot reach nobody there\n'


@pytest.mark.parametrize(('arguments', 'found'), [
    (['localhost:9100'], [Target(('localhost', 9100), '1')]),
    (['9100'], [Target((None, 9100), '1')]),
    (['host:1:a', '[::1]:2:b:c', '[::1]:3'],
     [Target(('host', 1), 'a'), Target(('::1', 2), 'b:c'), Target(('::1', 3), '1')]),
    (['-u', '/run/zeo.sock', '-u', '/run/x:y/z:n'],
     [Target('/run/zeo.sock', '1'), Target('/run/x:y/z', 'n')]),
    (['-u', 'zeo.sock:n'], [Target('./zeo.sock', 'n')]),
    (['-h', 'host', '-p', '1', '-S', 'a'], [Target(('host', 1), 'a')]),
    (['-h', 'host'], [Target(('host', 9100), '1')]),
    (['-p', '1'], [Target(('localhost', 1), '1')]),
    (['-U', '/run/zeo.sock', '-S', 'a'], [Target('/run/zeo.sock', 'a')]),
    (['h:1', 'h:1'], [Target(('h', 1), '1')]),
])
def test_servers_can_be_named_in_every_way_of_zeo(arguments, found):
    assert zeopack.targets(zeopack.command_line().parse_args(arguments)) == found


def test_time_to_pack_to():
    now = datetime.datetime(2024, 5, 6, 12, 30, 15).timestamp()
    assert zeopack.pack_time(0, None, now) == now
    assert zeopack.pack_time(1.5, None, now) == now - 1.5 * DAY_S
    for text, seconds in [('3', 3 * 3600), ('03:04', 3 * 3600 + 240), ('3:4:5', 3 * 3600 + 245)]:
        midnight = datetime.datetime(2024, 5, 6).timestamp()
        assert zeopack.pack_time(1, zeopack.time_of_day(text), now) == midnight + seconds - DAY_S


@pytest.mark.parametrize('text', ['', 'noon', '24', '1:60', '1:2:3:4', '-1', '1:2:60', '١'])
def test_what_is_not_a_time_of_day_is_refused(text):
    with pytest.raises(ValueError, match='is not a time of day'):
        zeopack.time_of_day(text)
