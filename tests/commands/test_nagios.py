"""zeo-nagios: T1, T2."""
from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.MappingStorage import MappingStorage
from ZODB.utils import z64

import zeo_clone
from tests.support.certificates import revocation_list
from tests.support.tool_process import run_tool
from zeo_clone.addresses import format_address
from zeo_clone.commands import health, nagios


def commit(address, storage='1'):
    """One transaction, so that the storage is not empty."""
    zeo_clone.DB(address, storage=storage).close()


@pytest.fixture
def check(capsys):
    """Run zeo-nagios in this process: (exit code, stdout)."""
    def run(*arguments):
        code = nagios.main([*map(str, arguments)])
        return code, capsys.readouterr().out
    return run


def age(path, seconds):
    """Make a file older."""
    past = path.stat().st_mtime - seconds
    os.utime(path, (past, past))


# -- as a process -------------------------------------------------------------------------------------

@pytest.mark.parametrize('tool', ['nagios', 'status'])
def test_a_probe_reads_no_configuration_and_opens_no_storage(tool):
    """T2: it is started every few seconds, so it loads neither what parses one nor what opens one."""
    program = (f'import sys, zeo_clone.commands.{tool}; '
               'print([name for name in ("ZConfig", "ZODB.FileStorage") if name in sys.modules])')
    loaded = subprocess.run([sys.executable, '-c', program], check=True, capture_output=True, text=True)
    assert loaded.stdout == '[]\n'


def test_server_with_data_is_ok(server):
    commit(server.addr)
    assert run_tool('nagios', format_address(server.addr)) == (0, 'OK\n', '')


def test_empty_storage_is_a_warning(server):
    assert run_tool('nagios', format_address(server.addr)) == (1, "Empty storage '1'\n", '')


def test_server_that_cannot_be_reached_is_critical(closed_port):
    assert run_tool('nagios', closed_port) == (2, f"Can't connect {closed_port}: Connection refused\n", '')


def test_mute_server_is_critical_after_the_timeout(mute_server):
    """T2"""
    code, out, _ = run_tool('nagios', '--timeout', '0.3', mute_server)
    assert code == 2
    assert out == f"Can't connect {mute_server}: no answer within 0.3 s{health.MUTE}\n"


@pytest.mark.parametrize('arguments', [[], ['localhost'], ['-u', 'weeks', '9100'], ['--timeout', '0', '1']])
def test_mistake_on_the_command_line_is_critical(arguments):
    code, out, err = run_tool('nagios', *arguments)
    assert (code, out) == (2, '')
    assert 'zeo-nagios: error: ' in err


def test_unix_socket(new_server, tmp_path):
    server = new_server(addr=str(tmp_path / 'zeo.sock'))
    assert run_tool('nagios', server.addr)[:2] == (1, "Empty storage '1'\n")
    assert run_tool('nagios', tmp_path / 'nobody')[:2] == (
        2, f"Can't connect {tmp_path}/nobody: No such file or directory\n")


def test_tls(tls_server, tls_options):
    """T1"""
    address = format_address(tls_server.addr)
    assert run_tool('nagios', address, *tls_options)[:2] == (1, "Empty storage '1'\n")


# -- in this process ----------------------------------------------------------------------------------

def test_server_whose_certificate_is_not_trusted_is_critical(tls_server, certificates, check):
    code, out = check(format_address(tls_server.addr), '--ssl-ca', certificates / 'stranger.pem')
    assert code == 2
    assert 'CERTIFICATE_VERIFY_FAILED' in out


def test_server_whose_certificate_was_revoked_is_critical(tls_server, tls_options, certificates, tmp_path,
                                                          check):
    (tmp_path / 'crl.pem').write_bytes(revocation_list(certificates, 'server.pem'))
    code, out = check(format_address(tls_server.addr), *tls_options, '--ssl-crl', tmp_path / 'crl.pem')
    assert code == 2
    assert 'revoked' in out


def test_certificate_for_another_host_is_critical_unless_any_will_do(tls_server, tls_options, check):
    address = format_address(tls_server.addr)
    code, out = check(address, *tls_options[:-1], 'elsewhere')
    assert code == 2
    assert 'elsewhere' in out
    assert check(address, *tls_options[:-2], '--ssl-no-hostname-check')[0] == 1


def test_mute_server_is_critical_with_tls_too(mute_server, check):
    code, out = check('--timeout', '0.2', '--ssl', mute_server)
    assert (code, out) == (2, f"Can't connect {mute_server}: no answer within 0.2 s{health.NO_HANDSHAKE}\n")


@pytest.mark.parametrize(('options', 'message'), [
    (['--ssl-key', '/no/key.pem'], '--ssl-key is given without --ssl-cert'),
    (['--ssl-cert', '/no/cert.pem'], 'there is no file /no/cert.pem'),
    (['--ssl-password-file', '/no/password'], 'cannot read the password: '),
])
def test_bad_tls_option_is_critical_and_named(check, options, message):
    code, out = check('9100', *options)
    assert code == 2
    assert out.startswith(f'Bad option: {message}')


@pytest.mark.parametrize(('data', 'message'), [
    (b'', 'it closed the connection without an answer: perhaps it has no room for more'),
    (b'\0\0\0\2Z5', 'it closed the connection without an answer'),
    (b'HTTP/1.1 400 Bad Request\r\n\r\n', 'the peer seems to speak HTTP'),
    (b'\0\0\0\4what', "it does not speak the protocol: it began with 'what'"),
    (b'\0\0\0\2Z5\0\0\0\2[]', "it answered with something else than its status: '[]'"),
    (b'\0\0\0\2Z5\0\0\0\7{"1":2}', 'it answered with something else than its status'),
    (b'\0\0\0\2Z5\0\0\0\3{"1', 'it answered with something else than its status'),
    (b'\0\0\0\2Z5\xff\0\0\0', 'a frame of 4278190080 bytes is announced'),
    (b'\0\0\0\2Z5\0\0\0\2{}', 'The server has no storage'),
])
def test_whatever_a_server_says_is_judged(saying_server, check, data, message):
    """T2"""
    code, out = check('--timeout', '5', saying_server(data))
    assert code == 2
    assert message in out


def test_storage_that_has_failed_is_critical(server, check):
    commit(server.addr)
    server.served['1'].backend.failures.latest = 'tpc_finish: OSError: disk full'
    assert check(format_address(server.addr)) == (
        2, "Storage '1': it has failed in tpc_finish: OSError: disk full\n")


def test_commit_lock_that_is_held_is_a_warning_and_critical_if_others_wait(server, client, check):
    """L1.  The limits are those of the log; a | would end the text."""
    storage = client(server.addr, client_label='holder')
    meta = TransactionMetaData('jane', 'this | that')
    storage.tpc_begin(meta)
    storage.store(z64, z64, b'cN\nN\n.', '', meta)
    storage.tpc_vote(meta)
    served = server.served['1']
    assert check(format_address(server.addr))[1] == "Empty storage '1'\n"
    served.stats.lock_time -= 39
    code, out = check(format_address(server.addr))
    assert code == 1
    assert re.match(r"Storage '1': the commit lock has been held for [\d:]+ (s|min) by 127.0.0.1:\d+ "
                    r'\(holder\), voted, user jane, this / that; nobody waits\n', out)
    waiting = served.lock._queue._waiting
    waiting.append(served.lock.holder)
    code, out = check(format_address(server.addr))
    waiting.clear()
    assert code == 2
    assert '; 1 transaction waits\n' in out
    storage.tpc_abort(meta)


def test_each_empty_storage_is_named(new_server, check):
    server = new_server({name: MappingStorage() for name in 'abc'})
    commit(server.addr, 'b')
    assert check(format_address(server.addr)) == (1, "Empty storage 'a'\nEmpty storage 'c'\n")


def test_metrics_are_performance_data(server, check):
    commit(server.addr)
    assert check('-m', format_address(server.addr)) == (
        0, 'OK|active_txns=0\n| connections=0\n waiting=0\n')


def test_metrics_of_further_storages_have_their_names(new_server, check):
    server = new_server({name: MappingStorage() for name in ('1', 'other')})
    assert check('-m', format_address(server.addr)) == (1, (
        "Empty storage '1'|active_txns=0\nEmpty storage 'other'\n| connections=0\n waiting=0\n"
        ' other:active_txns=0\n other:connections=0\n other:waiting=0\n'))


@pytest.mark.parametrize(('unit', 'factor'), [('seconds', 1), ('minutes', 60), ('hours', 3600),
                                              ('days', 86400), (None, 60)])
def test_rates_are_made_of_two_answers(server, check, tmp_path, unit, factor):
    address, path = format_address(server.addr), tmp_path / 'status'
    code, out = check('-m', '-s', path, address)
    assert 'commits' not in out
    age(path, 100)
    server.served['1'].stats.loads += 50
    commit(server.addr)
    code, out = check('-m', '-s', path, *(['-u', unit] if unit else []), address)
    assert code == 0
    rates = dict(re.findall(r'^\|? (\w+)=(\S+)$', out, re.MULTILINE))
    assert list(rates) == ['connections', 'waiting', 'aborts', 'commits', 'conflicts',
                           'conflicts_resolved', 'loads', 'stores']
    assert float(rates['commits']) == pytest.approx(factor / 100, rel=0.1)
    assert float(rates['loads']) >= 50 * factor / 100 * 0.9
    assert float(rates['aborts']) == 0


def test_rates_after_a_restart_of_the_server_are_not_negative(server, check, tmp_path):
    path = tmp_path / 'status'
    path.write_text(json.dumps({'1': {'commits': 1000, 'loads': 1000}}))
    age(path, 100)
    commit(server.addr)
    _, out = check('-m', '-s', path, '-u', 'seconds', format_address(server.addr))
    assert '-' not in out
    assert 0 < float(re.search(r' commits=(\S+)', out)[1]) <= 0.01


def test_damaged_status_file_is_replaced(server, check, tmp_path):
    path = tmp_path / 'status'
    path.write_text('nonsense')
    assert check('-m', '-s', path, format_address(server.addr))[0] == 1
    assert json.loads(path.read_text())['1']['commits'] == 0
    assert os.listdir(tmp_path) == ['status']


def test_status_file_that_cannot_be_written_is_critical(server, check, tmp_path):
    code, out = check('-s', tmp_path / 'no' / 'status', format_address(server.addr))
    assert code == 2
    assert out.startswith('Cannot keep the status: ')


def test_check_leaves_nothing_in_the_log_above_debug(server, check, caplog):
    """N9"""
    caplog.set_level('DEBUG')
    check(format_address(server.addr))
    server.close()  # everything has been said now
    assert [record for record in caplog.records if record.levelname != 'DEBUG'] == []
    assert [record.getMessage() for record in caplog.records if 'connected' in record.getMessage()]
