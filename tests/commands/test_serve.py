from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import ssl
import stat
import sys
from pathlib import Path

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.utils import z64

import zeo_clone
from tests.support.runzeo_process import MODULE, Runzeo, run, ruok
from zeo_clone.addresses import format_address
from zeo_clone.commands import process, serve, startup
from zeo_clone.Exceptions import ClientDisconnected

ANY_PORT = '127.0.0.1:0'
#: ZODB does not close the files of a FileStorage that it could not open.
QUIET = (sys.executable, '-W', 'error', '-W', 'ignore::ResourceWarning', '-m', 'zeo_clone.runzeo')
CHECKOUT = Path(__file__).parent.parent.parent


@pytest.fixture
def start(tmp_path):
    """Start runzeo in `tmp_path`: ``start('-f', 'Data.fs')``; wait with ``ready()``."""
    started = []

    def start(*arguments, **options):
        options.setdefault('cwd', tmp_path)
        started.append(Runzeo(*arguments, **options))
        return started[-1]

    yield start
    for server in started:
        server.__exit__()


@pytest.fixture
def unused_port():
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        return sock.getsockname()[1]


@pytest.fixture
def configuration(tmp_path):
    """Write a zeo.conf with these keys in ``<zeo>`` and these sections; its path."""
    def write(keys='', sections='<mappingstorage>\n</mappingstorage>'):
        path = tmp_path / 'zeo.conf'
        path.write_text(f'<zeo>\naddress {ANY_PORT}\n{keys}\n</zeo>\n{sections}\n')
        return path
    return write


def settings(*arguments):
    return serve.read_settings(serve.command_line().parse_args(list(map(str, arguments))))


def places(found):
    return {source.name: source.place for source in found.sources}


def last_line(text):
    return text.splitlines()[-1]


# -- what is served, and where ------------------------------------------------------------------------

def test_file_is_served_and_the_log_names_storage_file_and_port(start, tmp_path):
    server = start('-a', ANY_PORT, '-f', 'test.fs').ready()
    assert server.storages == {'1': 'test.fs'}
    assert server.address[0] == '127.0.0.1'
    assert server.address[1] > 0
    assert list(server.ruok()) == ['1']
    assert server.stop() == 0
    assert (tmp_path / 'test.fs').exists()


def test_without_options_data_fs_is_served_at_port_9100():
    found = settings()
    assert places(found) == {'1': 'Data.fs'}
    assert found.address == ('localhost', 9100)
    assert found.defaults_used == 'file ./Data.fs (another: -f) and address localhost:9100 (another: -a)'
    assert found.options == {}
    assert found.pid_file is None


def test_defaults_are_told(start, tmp_path):
    server = start('-a', ANY_PORT)
    server.read_until('by default: file ./Data.fs (another: -f)\n')
    server.ready()
    assert server.stop() == 0
    assert (tmp_path / 'Data.fs').exists()


def test_files_become_storages_1_2_3(start):
    server = start('-a', ANY_PORT, '-f', 'a.fs', '--filename', 'b.fs', '--filename=c.fs').ready('3')
    assert server.storages == {'1': 'a.fs', '2': 'b.fs', '3': 'c.fs'}
    assert set(server.ruok()) == {'1', '2', '3'}
    assert server.stop() == 0


def test_long_and_short_options_mean_the_same():
    short = settings('-a', 1, '-f', 'x.fs', '-t', 2)
    long = settings('--address', 1, '--filename', 'x.fs', '--timeout', 2)
    assert short.address == long.address == (None, 1)
    assert places(short) == places(long) == {'1': 'x.fs'}
    assert short.options == long.options == {'transaction_timeout': 2}


@pytest.mark.parametrize(('text', 'seconds'), [('0', 0), ('45', 45), ('2m', 120)])
def test_timeout_goes_to_the_server(text, seconds):
    assert settings('-t', text).options == {'transaction_timeout': seconds}


def test_configuration_is_served(start, configuration):
    path = configuration('transaction-timeout 5', """
        <filestorage main>
          path main.fs
        </filestorage>
        <mappingstorage>
          name in memory
        </mappingstorage>""")
    server = start('-C', path).ready()
    assert server.storages == {'main': 'main.fs', '1': 'in memory'}
    assert set(server.ruok()) == {'main', '1'}
    assert server.stop() == 0


def test_options_take_the_place_of_the_configuration(configuration, tmp_path):
    path = configuration(f'pid-filename {tmp_path}/a.pid\ntransaction-timeout 5\nread-only true')
    plain = settings('-C', path)
    assert plain.address == ('127.0.0.1', 0)
    assert places(plain) == {'1': 'MappingStorage'}
    assert plain.pid_file == f'{tmp_path}/a.pid'
    assert plain.options['transaction_timeout'] == 5
    changed = settings('--configure', path, '-a', '/run/zeo.sock', '-f', 'x.fs', '-t', 7,
                       '--pid-file', 'b.pid')
    assert changed.address == '/run/zeo.sock'
    assert places(changed) == {'1': 'x.fs'}
    assert changed.pid_file == 'b.pid'
    assert changed.options == {**plain.options, 'transaction_timeout': 7}


def test_a_relay_serves_what_another_server_has(start, tmp_path):
    """Two servers may be named; the cache stays."""
    above = start('-a', ANY_PORT, '-f', 'above.fs').ready()
    host, port = above.address
    server = start('-a', ANY_PORT, '--relay', './nobody.sock', '--relay', f'{host}:{port}',
                   '--cache', 'x.zec', '--cache-size', '5MB').ready()
    with contextlib.closing(zeo_clone.connection(above.address)) as connection:
        connection.root()['key'] = 'value'
        connection.transaction_manager.commit()
    with contextlib.closing(zeo_clone.connection(server.address)) as connection:
        assert connection.root()['key'] == 'value'
    assert above.stop() == 0
    with contextlib.closing(zeo_clone.connection(server.address)) as connection:
        assert connection.root()['key'] == 'value'
    assert server.stop() == 0
    assert (tmp_path / 'x.zec').exists() and not (tmp_path / 'Data.fs').exists()


def test_a_relay_speaks_tls_to_the_server_above(start, tls_server, tls_options):
    """S6: that one lets in nobody without a certificate of its authority."""
    relay = start('-a', ANY_PORT, '--relay', format_address(tls_server.addr), *tls_options).ready()
    with contextlib.closing(zeo_clone.connection(relay.address)) as connection:
        connection.root()['key'] = 'value'
        connection.transaction_manager.commit()
    assert tls_server.server_status('1')['clients'][0]['label'] == 'relay'
    assert tls_server.server_status('1')['commits'] == 2  # the root, and this


def test_a_relay_with_tls_on_both_sides(start, configuration, tls_server, certificates):
    """S6: each has a section of its own."""
    files = f'certificate {certificates}/%s.pem\nauthenticate {certificates}/ca.pem\n'
    relay = start('-C', configuration(
        '<ssl>\n' + files % 'server' + '</ssl>',
        f'%import zeo_clone\n<zeo-clone-client 1>\nserver {format_address(tls_server.addr)}\nwait false\n'
        '<ssl>\n' + files % 'client' + 'server-hostname localhost\n</ssl>\n</zeo-clone-client>')).ready()
    context = ssl.create_default_context(cafile=certificates / 'ca.pem')
    context.load_cert_chain(certificates / 'client.pem')
    with contextlib.closing(zeo_clone.connection(relay.address, ssl=context, ssl_server_hostname='localhost')
                            ) as connection:
        connection.root()['key'] = 'value'
        connection.transaction_manager.commit()
    assert tls_server.server_status('1')['commits'] == 2
    with pytest.raises(ClientDisconnected):
        zeo_clone.connection(relay.address, wait_timeout=0.1)


def test_what_a_relay_is():
    found = settings('--relay', '9101', '--relay', '/run/zeo.sock')
    assert places(found) == {'1': 'of the server at localhost:9101 or /run/zeo.sock, cache relay.zec'}
    assert found.defaults_used == 'address localhost:9100 (another: -a)'


@pytest.mark.parametrize(('arguments', 'message'), [
    (['--relay', 'host:x'], "bad address 'host:x': the port is"),
    (['--relay', 'host:0'], "'host:0' has no port at which a server could be"),
    (['--relay', 'host:1', '--cache-size', 'large'], "'large' is not a size"),
    (['--relay', 'host:1', '-f', 'Data.fs'], '--relay and --filename exclude each other'),
    (['--relay', 'host:1', '-C', 'zeo.conf'], '--relay and --configure exclude each other'),
    (['--cache', 'x.zec'], '--cache and --cache-size are for --relay ADDRESS'),
    (['--relay', 'localhost:9100'], '--relay localhost:9100 is the address of this server itself'),
    (['--relay', 'host:1', '--ssl-ca', '/no/ca.pem'], 'TLS to the server above: there is no file /no/ca.pem'),
    (['--relay', 'host:1', '--ssl-ca', __file__], 'TLS to the server above: '),
    (['-f', 'Data.fs', '--ssl'], '--ssl and its like are for --relay ADDRESS'),
])
def test_a_relay_that_cannot_be_is_told_in_one_line(capsys, arguments, message):
    """T2"""
    with pytest.raises(SystemExit) as end:
        sys.exit(serve.main(arguments))
    assert end.value.code == 2
    log = capsys.readouterr().err
    assert message in last_line(log) and 'Traceback' not in log


def test_a_name_of_a_file_that_is_empty_is_told(capsys):
    """T2: of a variable of the shell that is not set, say."""
    with pytest.raises(SystemExit, match='^2$'):
        serve.main(['-f', ''])
    assert 'argument -f/--filename: no file is named, the text is empty' in last_line(capsys.readouterr().err)


def test_a_cache_that_another_relay_has_is_told(start, tmp_path):
    """K2"""
    start('-a', ANY_PORT, '--relay', './nobody.sock').ready()
    code, _, log = run('-a', ANY_PORT, '--relay', './nobody.sock', cwd=tmp_path, command=QUIET)
    assert code == 1
    assert 'relay.zec' in last_line(log) and 'has it open' in last_line(log)


def test_a_database_is_no_cache_of_a_relay(tmp_path):
    """K1"""
    FileStorage(str(tmp_path / 'Data.fs')).close()
    code, _, log = run('-a', ANY_PORT, '--relay', './nobody.sock', '--cache', 'Data.fs', cwd=tmp_path,
                       command=QUIET)
    assert code == 1
    assert 'it is the database of a FileStorage; name another file' in last_line(log)
    assert 'Traceback' not in log


def test_host_omitted_means_ipv4_and_ipv6_at_one_port(start):
    """N4"""
    server = start('-a', '0', '-f', 'Data.fs').ready()
    port = server.address[1]
    for host in ['127.0.0.1', *(['::1'] if has_ipv6() else [])]:
        assert list(ruok((host, port))) == ['1']
    assert server.stop() == 0


def has_ipv6():
    with socket.socket(socket.AF_INET6) as sock:
        try:
            sock.bind(('::1', 0))
        except OSError:
            return False
    return True


def test_script_runs_from_a_checkout_without_installation(start):
    server = start('-a', ANY_PORT, '-f', 'Data.fs', path='/nowhere',
                   command=(sys.executable, str(CHECKOUT / 'scripts' / 'runzeo.py'))).ready()
    assert list(server.ruok()) == ['1']
    assert server.stop() == 0


def test_help_says_what_the_options_are():
    code, output, _ = run('-h')
    assert code == 0
    for option in ('--configure', '--address', '--filename', '--timeout', '--pid-file', '--help'):
        assert option in output
    assert run('--help')[:2] == (0, output)


def test_health_checks_leave_nothing_in_the_log(start):
    """N9"""
    server = start('-a', ANY_PORT, '-f', 'Data.fs').ready()
    for _ in range(3):
        socket.create_connection(server.address).close()
        server.ruok()
    before = server.log
    assert server.stop() == 0
    assert len(server.log[len(before):].splitlines()) == 1  # that it stops


# -- signals, pid file, service manager ---------------------------------------------------------------

@pytest.mark.parametrize(('number', 'code'), [
    (signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGHUP, 1)])
def test_signals_stop_the_server_with_their_exit_code(start, number, code):
    """T3"""
    server = start('-a', ANY_PORT, '-f', 'Data.fs').ready()
    assert server.stop(number) == code
    assert last_line(server.log).endswith(f'stopping on {signal.Signals(number).name}')


def test_stop_ends_a_commit_in_flight_without_a_trace(start, client, tmp_path):
    """T3"""
    server = start('-a', ANY_PORT, '-f', 'Data.fs').ready()
    storage = client(server.address)
    before = storage.lastTransaction()
    transaction = TransactionMetaData()
    storage.tpc_begin(transaction)
    storage.store(storage.new_oid(), z64, b'data', '', transaction)
    storage.tpc_vote(transaction)  # it holds the commit lock
    assert server.stop() == 0
    with pytest.raises(ClientDisconnected):
        storage.tpc_finish(transaction)
    with contextlib.closing(FileStorage(str(tmp_path / 'Data.fs'))) as file:
        assert file.lastTransaction() == before


def test_stop_while_a_storage_is_being_opened_ends_at_once(start, tmp_path):
    """T3: FileStorage swallows what stops it there."""
    FileStorage(str(tmp_path / 'Data.fs')).close()
    (tmp_path / 'Data.fs.index').unlink()
    os.mkfifo(tmp_path / 'Data.fs.index')
    server = start('-a', ANY_PORT, '--pid-file', 'zeo.pid', command=QUIET)
    with open(tmp_path / 'Data.fs.index', 'wb'):  # once it is being read, and whoever reads it waits
        assert server.stop() == 0
    assert 'serving storage' not in server.log
    assert not (tmp_path / 'zeo.pid').exists()


def test_usr2_reopens_log_files(start, configuration, tmp_path):
    """T3"""
    log = tmp_path / 'zeo.log'
    path = configuration(sections=f"""
        <mappingstorage>
        </mappingstorage>
        <eventlog>
          <logfile>
            path {log}
          </logfile>
          <logfile>
            path STDERR
            format %(name)s: %(message)s
          </logfile>
        </eventlog>""")
    server = start('-C', path).ready()
    log.rename(tmp_path / 'zeo.log.1')
    server.send(signal.SIGUSR2)
    server.read_until('log files reopened')
    assert list(server.ruok()) == ['1']
    assert server.stop() == 0
    assert 'serving storage' in (tmp_path / 'zeo.log.1').read_text()
    assert 'stopping on SIGTERM' in log.read_text()
    assert 'serving storage' not in log.read_text()


def test_usr2_without_log_files_does_no_harm(start):
    server = start('-a', ANY_PORT).ready()
    server.send(signal.SIGUSR2)
    server.read_until('log files reopened')
    assert server.stop() == 0


def test_usr1_ends_no_server(start):
    """T3: other programs reopen their log files then."""
    server = start('-a', ANY_PORT).ready()
    server.send(signal.SIGUSR1)
    server.read_until('SIGUSR1 means nothing to this server: USR2 reopens log files')
    assert list(server.ruok()) == ['1']
    assert server.stop() == 0


@pytest.mark.parametrize('read_only', ['false', 'true'])
def test_pid_file_is_there_while_serving(start, configuration, tmp_path, read_only):
    path = configuration(f'read-only {read_only}\npid-filename {tmp_path}/zeo.pid')
    server = start('-C', path).ready()
    assert (tmp_path / 'zeo.pid').read_text() == f'{server.pid}\n'
    assert server.stop() == 0
    assert not (tmp_path / 'zeo.pid').exists()


def test_pid_file_can_be_an_option(start, tmp_path):
    server = start('-a', ANY_PORT, '--pid-file', 'zeo.pid').ready()
    assert (tmp_path / 'zeo.pid').read_text() == f'{server.pid}\n'
    assert server.stop() == 0


def test_service_manager_is_told(start, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / 'notify'))
        manager.settimeout(30)
        server = start('-a', ANY_PORT, NOTIFY_SOCKET=str(tmp_path / 'notify'))
        assert manager.recv(100) == b'READY=1'
        server.ready()
        assert list(server.ruok()) == ['1']
        assert server.stop() == 0
        assert manager.recv(100) == b'STOPPING=1'


def test_service_manager_that_is_not_there_is_only_a_warning(start, tmp_path):
    server = start('-a', ANY_PORT, NOTIFY_SOCKET=str(tmp_path / 'nobody'))
    assert 'nobody' in server.read_until('cannot notify the service manager')
    assert server.stop() == 0


def test_clients_do_not_wait_for_what_the_process_does_besides(start):
    """Threads change often, and what is there when it serves is not searched for garbage any more."""
    script = ('import gc, sys; from zeo_clone.commands.serve import main; code = main(sys.argv[1:]); '
              'print(gc.get_freeze_count(), sys.getswitchinterval()); sys.exit(code)')
    server = start('-a', ANY_PORT, command=(sys.executable, '-c', script)).ready()
    server.send(signal.SIGTERM)
    code, output, _ = server.result()
    frozen, interval_s = output.split()
    assert code == 0
    assert int(frozen) > 10_000
    assert float(interval_s) == pytest.approx(serve.SWITCH_INTERVAL_S)
    assert serve.SWITCH_INTERVAL_S < sys.getswitchinterval()


# -- unix sockets -------------------------------------------------------------------------------------

def test_unix_socket_is_served_and_removed_at_the_end(start, tmp_path):
    server = start('-a', './zeo.sock', '-f', 'Data.fs').ready()
    assert server.address == './zeo.sock'
    assert list(ruok(str(tmp_path / 'zeo.sock'))) == ['1']
    assert server.stop() == 0
    assert not (tmp_path / 'zeo.sock').exists()


def test_unix_socket_of_a_server_that_was_killed_is_replaced(start, tmp_path):
    server = start('-a', './zeo.sock').ready()
    assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    assert stat.S_ISSOCK((tmp_path / 'zeo.sock').stat().st_mode)
    server = start('-a', './zeo.sock').ready()
    assert list(ruok(str(tmp_path / 'zeo.sock'))) == ['1']
    assert server.stop() == 0


def test_unix_socket_in_use_is_left_alone(start, tmp_path):
    server = start('-a', './zeo.sock', '-f', 'a.fs').ready()
    code, _, log = run('-a', './zeo.sock', '-f', 'b.fs', cwd=tmp_path)
    assert code == 2
    assert log == ('runzeo: cannot listen at ./zeo.sock: another server listens there; stop it, or give '
                   'another address\n')
    assert not (tmp_path / 'b.fs').exists()
    assert list(ruok(str(tmp_path / 'zeo.sock'))) == ['1']
    assert server.stop() == 0


def test_file_that_is_not_a_socket_is_left_alone(tmp_path):
    (tmp_path / 'zeo.sock').write_text('precious')
    code, _, log = run('-a', './zeo.sock', '-f', 'Data.fs', cwd=tmp_path)
    assert code == 2
    assert log == ('runzeo: cannot listen at ./zeo.sock: it is there and is not a socket; remove it, or '
                   'give another address\n')
    assert (tmp_path / 'zeo.sock').read_text() == 'precious'


# -- errors -------------------------------------------------------------------------------------------

def test_port_in_use_is_one_clear_line(tmp_path):
    with socket.create_server(('127.0.0.1', 0)) as other:
        port = other.getsockname()[1]
        code, _, log = run('-a', f'127.0.0.1:{port}', '-f', 'Data.fs', cwd=tmp_path)
    assert code == 2
    assert os.listdir(tmp_path) == []
    assert log == (f'runzeo: cannot listen at 127.0.0.1:{port}: another server listens '
                              'there; stop it, or give another address\n')


def test_second_server_on_the_same_file_names_file_and_holder(start, tmp_path):
    """C14"""
    server = start('-a', ANY_PORT, '-f', 'Data.fs', command=MODULE).ready()
    code, _, log = run('-a', ANY_PORT, '-f', 'Data.fs', cwd=tmp_path)
    assert code == 1
    assert last_line(log).startswith(
        f"runzeo: cannot open storage '1' (Data.fs): process {server.pid} ({sys.executable} ")
    assert last_line(log).endswith(
        ' has it open (lock file Data.fs.lock); stop that process, or serve another file')
    assert 'Traceback' not in log
    assert list(server.ruok()) == ['1']
    assert server.stop() == 0


def test_holder_of_a_lock_that_did_not_leave_its_name_is_another_process(tmp_path):
    """C14"""
    storage = FileStorage(str(tmp_path / 'Data.fs'))
    (tmp_path / 'Data.fs.lock').write_text('')
    code, _, log = run('-a', ANY_PORT, '-f', 'Data.fs', cwd=tmp_path)
    storage.close()
    assert code == 1
    assert last_line(log) == (
        "runzeo: cannot open storage '1' (Data.fs): another process has it open (lock file "
        'Data.fs.lock); stop that process, or serve another file')


@pytest.mark.parametrize(('arguments', 'message'), [
    (['-f', 'no/Data.fs'], "cannot open storage '1' (no/Data.fs): No such file or directory: no/Data.fs.l"),
    (['-f', 'a.fs', '-f', 'directory'], "cannot open storage '2' (directory): [Errno 21] "),
    (['-f', 'text'], "cannot open storage '1' (text): FileStorageFormatError: "),
])
def test_start_error_is_one_line_that_says_what_to_do(tmp_path, arguments, message):
    (tmp_path / 'directory').mkdir()
    (tmp_path / 'text').write_text('This is not a FileStorage, and never was one.\n')
    code, _, log = run('-a', ANY_PORT, *arguments, cwd=tmp_path, command=QUIET)
    assert code == 1
    assert last_line(log).startswith(f'runzeo: {message}')
    assert '; ' in last_line(log)  # what to do
    assert log.count('cannot') == 1
    assert 'None' not in log
    assert 'Traceback' not in log
    FileStorage(str(tmp_path / 'a.fs')).close()  # nobody holds it


@pytest.mark.once
@pytest.mark.parametrize('check', [False, True])
@pytest.mark.parametrize(('arguments', 'message'), [
    (['-a', './no/zeo.sock'], 'cannot listen at ./no/zeo.sock: there is no directory ./no; give another'),
    (['-a', './' + 'x' * 200], 'cannot listen at ./xxx'),
    (['-a', '192.0.2.1:0'], 'cannot listen at 192.0.2.1:0: '),
    (['-a', 'no-such-host.invalid:9100'], 'cannot listen at no-such-host.invalid:9100: '),
    (['-a', './text'], 'cannot listen at ./text: it is there and is not a socket; remove it, or give'),
    (['--pid-file', 'no/zeo.pid'], 'cannot write the pid file no/zeo.pid: there is no directory '),
])
def test_a_place_that_cannot_be_used_is_told_before_anything_is_made(tmp_path, arguments, message, check):
    """T1"""
    (tmp_path / 'text').touch()
    code, _, log = run('-a', ANY_PORT, '-f', 'Data.fs', *arguments, *['--check'] * check, cwd=tmp_path,
                       command=QUIET)
    assert code == 2
    assert log.startswith(f'runzeo: {message}') and log.count('\n') == 1
    assert '; ' in log  # what to do
    assert os.listdir(tmp_path) == ['text']


def test_a_directory_that_cannot_be_written_is_told_before_anything_is_made(tmp_path, monkeypatch):
    """T1"""
    monkeypatch.setattr(os, 'access', lambda path, mode: str(path) != str(tmp_path / 'ro'))
    (tmp_path / 'ro').mkdir()
    for found in (lambda: startup.check_address(str(tmp_path / 'ro' / 'zeo.sock')),
                  lambda: process.check_pid_file(str(tmp_path / 'ro' / 'zeo.pid'))):
        with pytest.raises(process.StartError, match=f'no permission to write in {tmp_path}/ro; ') as info:
            found()
        assert info.value.exit_code == 2


def test_nobody_can_connect_while_storages_are_being_opened(tmp_path, unused_port):
    """T1: the address is tried before, and is free again."""
    address = ('127.0.0.1', unused_port)
    startup.check_address(address)
    startup.check_address(str(tmp_path / 'zeo.sock'))
    with socket.socket() as sock:
        assert sock.connect_ex(address) == errno.ECONNREFUSED
    assert os.listdir(tmp_path) == []


def test_check_says_that_a_server_is_running_there(start, tmp_path):
    """T1: it may be the one that is to be replaced."""
    server = start('-a', ANY_PORT, '-f', 'a.fs').ready()
    place = format_address(server.address)
    code, out, log = run('--check', '-a', place, '-f', 'b.fs', cwd=tmp_path)
    assert (code, log) == (0, '')
    assert last_line(out) == f'just now another server listens at {place}: stop it first'
    assert not (tmp_path / 'b.fs').exists()
    assert server.stop() == 0


@pytest.mark.parametrize(('arguments', 'message'), [
    (['-a', 'localhost'], "argument -a/--address: bad address 'localhost': the port is missing;"),
    (['-a', 'localhost:99999'], 'the port is a number from 0 to 65535'),
    (['-t', '-1'], "argument -t/--timeout"),
    (['-t', 'soon'], "argument -t/--timeout: 'soon' is not a time"),
    (['--no-such-option'], 'unrecognized arguments: --no-such-option'),
    (['Data.fs'], 'unrecognized arguments: Data.fs'),
    (['-f'], 'argument -f/--filename: expected one argument'),
])
def test_mistake_on_the_command_line_exits_with_2(tmp_path, arguments, message):
    code, _, log = run(*arguments, cwd=tmp_path)
    assert code == 2
    assert last_line(log).startswith('runzeo: error: ')
    assert message in last_line(log)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(('text', 'message'), [
    (None, 'No such file or directory'),
    ('<zeo>\naddress 0\nadress 0\n</zeo>', "'adress' is not a known key name"),
    ('<zeo>\naddress 0\n</zeo>', 'nothing to serve: give '),
    ('<zeo>\naddress 9\nmetrics-address 9\n</zeo>\n<mappingstorage>\n</mappingstorage>', 'another port'),
])
def test_mistake_in_the_configuration_exits_with_2_and_names_the_file(tmp_path, text, message):
    path = tmp_path / 'zeo.conf'
    if text is not None:
        path.write_text(text)
    code, _, log = run('-C', path)
    assert code == 2
    assert log.startswith('runzeo: ')
    assert message in log
    assert str(path) in log
    assert len(log.splitlines()) == 1


FILE = '<filestorage {}>\npath {}\n{}\n</filestorage>\n'
DEMO = '<demostorage b>\n{}{}</demostorage>\n'


@pytest.mark.parametrize(('key', 'other', 'section'), [
    ('path there.fs', 'path ./there.fs', FILE.format('b', './there.fs', '')),
    ('path there.fs', 'path link.fs',
     DEMO.format(FILE.format('', 'base.fs', ''), FILE.format('changes', 'link.fs', ''))),
    ('path there.fs', 'cache-path there.fs',
     '%import zeo_clone\n<zeo-clone-client b>\nserver 1\ncache-path there.fs\n</zeo-clone-client>'),
    ('blob-dir blobs', 'blob-dir ./blobs', FILE.format('b', 'y.fs', 'blob-dir ./blobs')),
    ('blob-dir blobs', 'blob-dir blobs',
     '<blobstorage b>\nblob-dir blobs\n<mappingstorage>\n</mappingstorage>\n</blobstorage>'),
])
def test_two_storages_at_one_place_are_told_before_anything_is_made(
        configuration, tmp_path, monkeypatch, key, other, section):
    """C14, T1: with both sections and what they say, however the file or directory is spelled."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'there.fs').touch()
    (tmp_path / 'link.fs').symlink_to('there.fs')
    path = configuration('group-commit no' if 'link' in other else '',
                         FILE.format('a', 'there.fs', 'blob-dir blobs') + section)
    with pytest.raises(process.StartError) as caught:
        settings('-C', path)
    assert caught.value.exit_code == 2
    assert str(caught.value) == (f"storages 'a' ({key}) and 'b' ({other}) would write to the same place; "
                                 f'give each one of its own ({path})')
    assert len(settings('-C', path, '-f', 'there.fs').sources) == 1  # no section counts then


@pytest.mark.parametrize(('base', 'changes'), [
    (FILE.format('', 'there.fs', ''), FILE.format('changes', './there.fs', '')),
    (FILE.format('', 'there.fs', ''), DEMO.format('', FILE.format('changes', './there.fs', '')).replace(
        'demostorage b', 'demostorage changes'))])
def test_two_sections_of_one_storage_at_one_place_are_told(
        configuration, monkeypatch, tmp_path, base, changes):
    """C14, T1: a DemoStorage that would change its base."""
    monkeypatch.chdir(tmp_path)
    path = configuration(sections=DEMO.format(base, changes))
    with pytest.raises(process.StartError) as caught:
        settings('-C', path)
    assert str(caught.value) == (
        "storage 'b': <filestorage> (path there.fs) and <filestorage changes> (path ./there.fs) would write "
        f'to the same place; give each one of its own ({path})')


def test_one_file_twice_on_the_command_line_is_told(tmp_path):
    """C14, T1"""
    code, _, log = run('-a', ANY_PORT, '-f', 'x.fs', '-f', f'{tmp_path}/x.fs', cwd=tmp_path)
    assert (code, os.listdir(tmp_path)) == (2, [])
    assert log == (f"runzeo: storages '1' (-f x.fs) and '2' (-f {tmp_path}/x.fs) would write to the same "
                   f'place; give each one of its own\n')


def test_one_storage_may_read_what_another_one_writes(configuration, monkeypatch, tmp_path):
    """As the base of a DemoStorage."""
    monkeypatch.chdir(tmp_path)
    reader = FILE.format('', 'x.fs', 'blob-dir d\nread-only yes')
    path = configuration(sections=FILE.format('a', 'x.fs', 'blob-dir d') + DEMO.format(reader, ''))
    assert list(places(settings('-C', path))) == ['a', 'b']


CLIENT = '%import zeo_clone\n<zeo-clone-client {}>\nserver 1\n{}\n</zeo-clone-client>\n'
BUCKETS = '''
%import package_with_buckets
<bucket a>
blob-dir one
blob-dir two
cache-path 3
</bucket>
<bucket b>
blob-dir one
cache-path 3
</bucket>
'''


@pytest.mark.parametrize('sections', [
    FILE.format('a', 'x.fs', 'blob-dir d') + CLIENT.format('b', 'blob-dir d\nshared-blob-dir yes'),
    BUCKETS, FILE.format('a', 'no\0name', '')])
def test_what_is_no_place_of_a_storages_own_is_not_complained_of(
        configuration, monkeypatch, tmp_path, sections):
    """A directory that a client shares with its server; keys of other packages that name no file."""
    package = tmp_path / 'package_with_buckets'
    package.mkdir()
    (package / '__init__.py').write_text('from ZODB.config import MappingStorage as Bucket')
    (package / 'component.xml').write_text('''
        <component prefix="package_with_buckets">
          <sectiontype name="bucket" datatype=".Bucket" implements="ZODB.storage">
            <multikey name="blob-dir"/>
            <key name="cache-path" datatype="integer"/>
          </sectiontype>
        </component>''')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert 'a' in places(settings('-C', configuration(sections=sections)))


def test_clients_that_only_read_have_a_cache_each(configuration, tmp_path):
    """C14, T1: they write there what they have read.  With -f the sections, and their file, do not count."""
    cached = f'read-only yes\ncache-path {tmp_path}/c.zec'
    path = configuration(sections=CLIENT.format('a', cached) + CLIENT.format('b', cached))
    with pytest.raises(process.StartError, match=r"'a' \(cache-path .*\) and 'b' \(cache-path .*zeo.conf\)$"):
        settings('-C', path)
    with pytest.raises(process.StartError, match='give each one of its own$'):
        settings('-C', path, '-f', 'x.fs', '-f', './x.fs')


def test_start_error_goes_to_the_event_log_too(configuration, tmp_path):
    path = configuration(sections=f"""
        <eventlog>
          <logfile>
            path {tmp_path}/zeo.log
          </logfile>
        </eventlog>""")
    code, _, log = run('-C', path, '-f', 'no/Data.fs')
    assert code == 1
    assert log.startswith("runzeo: cannot open storage '1' (no/Data.fs)")
    assert log.removeprefix('runzeo: ') in (tmp_path / 'zeo.log').read_text()


def test_event_log_that_cannot_be_written_is_an_error(configuration, tmp_path):
    path = configuration(sections='<eventlog>\n<logfile>\npath /no/zeo.log\n</logfile>\n</eventlog>')
    code, _, log = run('-C', path, '-f', 'Data.fs')
    assert code == 1
    assert last_line(log).startswith('runzeo: cannot write the log: ')
    assert last_line(log).endswith('see the <eventlog> section')


# -- without serving ----------------------------------------------------------------------------------

def test_check_says_what_would_be_served_and_opens_nothing(tmp_path):
    (tmp_path / 'zeo.conf').write_text(
        '<zeo>\naddress 127.0.0.1:9100\n</zeo>\n<filestorage>\npath Data.fs\n</filestorage>\n'
        '<mappingstorage other>\n</mappingstorage>')
    code, output, log = run('--check', '-C', 'zeo.conf', cwd=tmp_path)
    room = startup.describe_limits(startup.coming_limits({}, 2), {}, 2)
    assert (code, log) == (0, '')
    assert output == ("would serve storage '1' (Data.fs) at 127.0.0.1:9100\n"
                      "would serve storage 'other' (MappingStorage) at 127.0.0.1:9100\n"
                      f'would have {room}\n')
    assert os.listdir(tmp_path) == ['zeo.conf']


def test_a_message_that_may_have_less_than_a_megabyte_is_told_in_kilobytes(tmp_path):
    """S12"""
    (tmp_path / 'zeo.conf').write_text(
        '<zeo>\naddress 9100\nmemory-limit 1MB\n</zeo>\n<mappingstorage>\n</mappingstorage>')
    code, output, _ = run('--check', '-C', 'zeo.conf', cwd=tmp_path)
    assert code == 0
    assert '; 1 MB may wait for all together, a message may have 512 KB, half of memory-limit' in output


def test_check_names_servers_and_databases_as_people_do(tmp_path):
    """T2: no class, no address in memory, no password."""
    (tmp_path / 'zeo.conf').write_text(f'''
        %import zeo_clone
        %import relstorage
        <zeo>
          address 9100
        </zeo>
        <clientstorage main>
          server localhost:9200
          server ./zeo.sock
        </clientstorage>
        <relstorage site>
          <sqlite3>
            data-dir {tmp_path}/sqlite
          </sqlite3>
        </relstorage>
        ''')
    code, output, _ = run('--check', '-C', 'zeo.conf', cwd=tmp_path)
    assert code == 0
    assert "storage 'main' (of the server at localhost:9200 or ./zeo.sock) at 9100\n" in output
    assert f"storage 'site' (RelStorage on SQLite in {tmp_path}/sqlite) at 9100\n" in output


def test_a_port_that_the_system_has_picked_is_told(start):
    """T2"""
    server = start('-a', ANY_PORT, '-f', 'Data.fs').ready()
    place = format_address(server.address)
    assert f'WARNING zeo_clone: no port is configured: the system has picked that of {place}, ' in server.log


def test_configuration_of_a_client_is_told_from_a_servers(tmp_path):
    """T2"""
    (tmp_path / 'zodb.conf').write_text('<zodb>\n</zodb>')
    code, _, log = run('--check', '-C', 'zodb.conf', cwd=tmp_path)
    assert code == 2
    assert '; this is the configuration of a client: a server has <zeo>, and a section for each st' in log


def test_check_finds_mistakes(tmp_path):
    (tmp_path / 'zeo.conf').write_text('<zeo>\naddress 9100\nadress 1\n</zeo>')
    code, output, log = run('--check', '-C', 'zeo.conf', cwd=tmp_path)
    assert (code, output) == (2, '')
    assert "'adress' is not a known key name; allowed in <zeo>: <ssl>, address, " in log
    assert 'zeo.conf, line 3)' in log
