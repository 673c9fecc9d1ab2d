"""metrics-address, as whoever runs the server meets it."""
from __future__ import annotations

import contextlib
import re
import signal
import socket
import sys

import pytest
from prometheus_client.parser import text_string_to_metric_families

import zeo_clone
from tests.monitor.conftest import get
from tests.support.runzeo_process import Runzeo, run
from zeo_clone.addresses import format_address, parse_address
from zeo_clone.commands import serve


@pytest.fixture
def configuration(tmp_path):
    """Write a zeo.conf with a metrics-address; its path."""
    def write(metrics_address, more=''):
        path = tmp_path / 'zeo.conf'
        path.write_text(f'<zeo>\naddress 127.0.0.1:0\nmetrics-address {metrics_address}\n{more}</zeo>\n'
                        f'<filestorage>\npath {tmp_path}/Data.fs\n</filestorage>\n')
        return path
    return write


def monitor_of(server):
    line = server.read_until('metrics at ')
    return parse_address(re.search(r'metrics at http://(\S+)/metrics, a page about the server at http://\1/$',
                                   line)[1])


def test_server_that_runs_can_be_scraped_and_says_where(configuration):
    with Runzeo('-C', configuration('127.0.0.1:0')) as server:
        address = monitor_of(server)
        zeo_clone.DB(server.ready().address).close()
        status, _, text = get(address, '/metrics')
        assert status == 200
        names = {family.name for family in text_string_to_metric_families(text)}
        assert {'zeo_loads', 'zeo_commits', 'zeo_load_seconds', 'zeo_lock_wait_seconds', 'zeo_vote_seconds',
                'zeo_finish_seconds', 'zeo_waiting_transactions', 'process_open_fds'} <= names
        assert get(address, '/healthz')[0] == get(address, '/readyz')[0] == get(address, '/')[0] == 200
        with socket.create_connection(address):  # a peer that says nothing holds nobody up
            assert server.stop(signal.SIGTERM) == 0
    assert all('no port is configured' in line for line in server.log.splitlines() if ' WARNING ' in line)


def test_port_that_is_taken_is_one_clear_line_and_exit_code_2(configuration):
    with socket.create_server(('127.0.0.1', 0)) as taken:
        place = format_address(taken.getsockname())
        code, output, log = run('-C', configuration(place))
    assert (code, output) == (2, '')
    assert log.splitlines()[-1] == (
        f"runzeo: metrics-address: cannot listen at {place}: Address already in use; give the "
        "'metrics-address' key another address")
    assert 'opening storage' not in log


def test_check_opens_nothing(configuration, capsys):
    assert serve.main(['--check', '-C', str(configuration('localhost:9180'))]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == 'would serve metrics at localhost:9180'


@pytest.mark.parametrize('arguments', [['--check'], []])
def test_missing_library_is_told_at_once_with_what_to_do(configuration, capsys, monkeypatch, arguments):
    monkeypatch.setitem(sys.modules, 'prometheus_client', None)
    path = configuration('localhost:9180')
    assert serve.main([*arguments, '-C', str(path)]) == 2
    assert capsys.readouterr().err == (
        'runzeo: bad configuration: metrics-address needs the package prometheus_client, which is not '
        f"installed: run pip install 'zeo_clone[metrics]', or remove the key (file://{path}, line 3)\n")


def test_server_without_the_key_needs_no_library_and_measures_nothing(tmp_path):
    with Runzeo('-a', '127.0.0.1:0', '-f', tmp_path / 'Data.fs') as server:
        assert 'latency' not in server.ready().ruok()['1']
        assert server.stop() == 0
    assert 'metrics' not in server.log


@pytest.mark.parametrize('zeo_conf', ['metrics-address 127.0.0.1:0', {'metrics_address': '127.0.0.1:0'}])
def test_server_in_ones_own_process_can_have_a_monitor_too(zeo_conf, monkeypatch):
    made = []

    def listen(address, **options):
        made.append(monitor_class(address, **options))
        return made[0]

    from zeo_clone.monitor import monitor as module
    monitor_class = module.Monitor
    monkeypatch.setattr(module, 'Monitor', listen)
    address, stop = zeo_clone.server(zeo_conf=zeo_conf)
    with contextlib.closing(zeo_clone.client(address)) as storage:
        assert 'latency' in storage.server_status()
        assert get(made[0].address, '/readyz')[0] == 200
    stop()
    with pytest.raises(ConnectionRefusedError):
        get(made[0].address, '/readyz')


@pytest.mark.parametrize('host', ['zeo.example.com', 'zeo.example.com:9180'])
def test_names_of_the_monitor_are_configured(configuration, host):
    """S15."""
    path = configuration('127.0.0.1:0', 'metrics-host other\nmetrics-host Zeo.example.com\n')
    with Runzeo('-C', path) as server:
        address = monitor_of(server)
        server.ready()
        assert get(address, '/healthz', Host=host)[0] == 200
        status, _, text = get(address, '/healthz', Host='evil.example')
        assert status == 421
        assert 'add "metrics-host evil.example" to <zeo>' in text


def test_a_bad_name_is_refused(configuration, capsys):
    assert serve.main(['--check', '-C', str(configuration('localhost:1', 'metrics-host http://x\n'))]) == 2
    assert 'is no host' in capsys.readouterr().err


@pytest.mark.parametrize('zeo_conf', [
    'metrics-address 127.0.0.1:0\nmetrics-host here',
    {'metrics-address': '127.0.0.1:0', 'metrics-host': 'here'}])
def test_server_in_ones_own_process_has_names_as_well(zeo_conf, monkeypatch):
    from zeo_clone.monitor import monitor as module
    made = []
    monitor_class = module.Monitor

    def listen(address, **options):
        made.append(monitor_class(address, **options))
        return made[0]

    monkeypatch.setattr(module, 'Monitor', listen)
    _, stop = zeo_clone.server(zeo_conf=zeo_conf)
    assert get(made[0].address, '/healthz', Host='here')[0] == 200
    assert get(made[0].address, '/healthz', Host='there')[0] == 421
    stop()
