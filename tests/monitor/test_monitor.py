"""What the monitor of a running server answers."""
from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import platform
import re
import threading

import pytest
import transaction
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage
from ZODB.utils import z64

import zeo_clone
from tests.monitor.conftest import get
from zeo_clone.Exceptions import ClientDisconnected
from zeo_clone.monitor import answers, reporter
from zeo_clone.monitor.monitor import Monitor
from zeo_clone.version import __version__

NASTY = '<b>"x"</b>\\ \n{a="b"} 1'


def samples(text):
    """``{(name, label values...): value}``"""
    return {(sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text) for sample in family.samples}


def commit(address, **options):
    with contextlib.closing(zeo_clone.connection(address, **options)) as connection:
        connection.root()['key'] = 'value'
        transaction.commit()


def vote(storage, user='', description=''):
    meta = TransactionMetaData(user, description)
    storage.tpc_begin(meta)
    storage.store(z64, z64, b'cN\nN\n.', '', meta)
    storage.tpc_vote(meta)
    return meta


# -- metrics ------------------------------------------------------------------------------------------

def test_metrics_count_what_happened(ask, measured):
    commit(measured.addr)
    status, headers, text = ask('/metrics')
    assert status == 200
    assert headers['Content-Type'] == 'text/plain; version=0.0.4; charset=utf-8'
    found = samples(text)
    assert found['zeo_commits_total', '1'] == 2
    assert found['zeo_stores_total', '1'] == 2
    assert found['zeo_connections', '1'] == 0
    assert found['zeo_storage_failed', '1'] == 0
    assert found['zeo_last_transaction_timestamp_seconds', '1'] > 1e9
    for name in ('lock_wait', 'vote', 'finish'):
        assert found[f'zeo_{name}_seconds_count', '1'] == 2
        assert found[f'zeo_{name}_seconds_bucket', '+Inf', '1'] == 2
        assert 0 < found[f'zeo_{name}_seconds_sum', '1'] < 60
    assert found['process_resident_memory_bytes',] > 1e6
    assert found['zeo_loop_lag_seconds',] >= 0


def test_every_counter_of_the_status_is_a_metric(ask, measured):
    found = samples(ask('/metrics')[2])
    status = measured.server_status()
    for key in ('loads', 'stores', 'commits', 'aborts', 'conflicts', 'conflicts_resolved', 'invalidations',
                'verifications', 'verifications_failed'):
        assert found[f'zeo_{key}_total', '1'] == status[key]


def test_what_fits_and_what_is_used_is_a_metric(ask, measured, client):
    """S12, S13: once, for all storages."""
    client(measured.addr).ping()
    found = samples(ask('/metrics')[2])
    status = measured.server_status()
    for key, name in {'all_connections': 'all_connections', 'max_connections': 'max_connections',
                      'strangers': 'strangers', 'max_strangers': 'max_strangers', 'memory': 'waiting_bytes',
                      'memory_limit': 'waiting_bytes_limit', 'turned_away': 'turned_away_total',
                      'memory_closed': 'memory_closed_total'}.items():
        assert found[f'zeo_{name}',] == status[key]
    assert status['all_connections'] == 1
    assert status['memory_limit'] == measured.limits.memory


def test_what_clients_call_themselves_stays_a_text(ask, measured, client):
    for _ in range(2):
        client(measured.addr, client_label=NASTY).server_status()
    client(measured.addr).server_status()
    found = samples(ask('/metrics')[2])
    received = {key[1]: value for key, value in found.items() if key[0] == 'zeo_client_received_bytes'}
    later = {NASTY.replace('\n', '?'): 0, '': 0}
    for described in measured.server_status()['clients']:
        later[described['label']] += described['received']
    assert received.keys() == later.keys()
    assert all(0 < received[label] <= later[label] for label in later)  # they say more, now and then


def test_storages_are_told_apart_by_their_names(new_server, new_monitor):
    server = new_server({'a"b\\': MappingStorage(), 'c\nd': MappingStorage()})
    found = samples(get(new_monitor(server).address, '/metrics')[2])
    assert {key[1] for key in found if key[0] == 'zeo_loads_total'} == {'a"b\\', 'c\nd'}


def test_openmetrics_are_there_for_those_who_ask(ask):
    status, headers, text = ask('/metrics', Accept='application/openmetrics-text; version=1.0.0')
    assert status == 200
    assert headers['Content-Type'].startswith('application/openmetrics-text')
    families = openmetrics_parser.text_string_to_metric_families(text)
    assert 'zeo_commits' in {family.name for family in families}


def test_server_that_does_not_measure_has_the_other_metrics(server, new_monitor):
    found = samples(get(new_monitor(server).address, '/metrics')[2])
    assert ('zeo_loads_total', '1') in found
    assert not [key for key in found if key[0].startswith('zeo_load_seconds')]


# -- status -------------------------------------------------------------------------------------------

def test_status_is_what_zeo_status_is_told_and_more(ask, measured, client):
    storage = client(measured.addr, client_label=NASTY)
    meta = vote(storage, 'jane', '<i>moves</i>')
    status, headers, text = ask('/status.json')
    found = json.loads(text)
    assert (status, headers['Content-Type']) == (200, 'application/json')
    assert found['state'] == 'serving'
    assert found['address'] == '127.0.0.1:{1}'.format(*measured.addr)
    assert found['storages']['1'].keys() == measured.server_status().keys()
    assert found['storages']['1']['lock_holder']['description'] == '<i>moves</i>'
    assert found['storages']['1']['latency']['vote']['counts'].count(1) == 1
    storage.tpc_abort(meta)


# -- health -------------------------------------------------------------------------------------------

def test_healthy_server_says_so(ask):
    assert ask('/healthz')[::2] == (200, 'ok\n')
    assert ask('/readyz')[::2] == (200, 'ok: 1 storage\n')


def test_server_whose_loop_is_stuck_is_not_healthy(ask, measured, monkeypatch):
    monkeypatch.setattr(reporter, 'PATIENCE_S', 0.05)
    go_on = threading.Event()
    measured.call_in_loop(go_on.wait)
    try:
        for path in ('/healthz', '/readyz', '/metrics'):
            assert ask(path)[::2] == (503, f'{answers.STUCK}\n')
        assert json.loads(ask('/status.json')[2]) == {'state': 'stuck', 'reason': answers.STUCK}
        assert ask('/')[0] == 200
    finally:
        go_on.set()
    monkeypatch.undo()
    assert ask('/healthz')[0] == 200


class Broken(MappingStorage):

    def tpc_finish(self, transaction, func=lambda tid: None):
        raise OSError(28, 'No space left on device')


def test_server_with_a_storage_that_failed_is_healthy_but_not_ready(new_server, new_monitor, client):
    """L9"""
    server = new_server({'good': MappingStorage(), 'bad': Broken()})
    monitor = new_monitor(server)
    storage = client(server.addr, storage='bad')
    meta = vote(storage)
    with pytest.raises(ClientDisconnected, match='nothing was committed, it may be repeated .*No space'):
        storage.tpc_finish(meta)
    assert get(monitor.address, '/healthz')[0] == 200
    status, _, text = get(monitor.address, '/readyz')
    assert status == 503
    assert text == "storage 'bad': it has failed in tpc_finish: OSError: [Errno 28] No space left on device\n"
    found = samples(get(monitor.address, '/metrics')[2])
    assert (found['zeo_storage_failed', 'good'], found['zeo_storage_failed', 'bad']) == (0, 1)


def test_server_that_is_starting_lives_but_is_not_ready(new_monitor):
    address = new_monitor().address
    assert get(address, '/healthz')[::2] == (200, f'{answers.STARTING}\n')
    assert get(address, '/readyz')[::2] == get(address, '/metrics')[::2] == (503, f'{answers.STARTING}\n')
    assert json.loads(get(address, '/status.json')[2])['state'] == 'starting'


def test_server_that_is_stopping_is_neither(server, new_monitor):
    monitor = new_monitor(server)
    monitor.stop()
    server.close()
    for path in ('/healthz', '/readyz', '/metrics'):
        assert get(monitor.address, path)[::2] == (503, 'stopping\n')


# -- the listener -------------------------------------------------------------------------------------

def test_unknown_path_is_told_what_there_is(ask):
    status, _, text = ask('/no/such')
    assert status == 404
    assert '/metrics, /status.json' in text


def test_asking_leaves_nothing_in_the_log_above_debug(ask, caplog):
    """N9"""
    caplog.set_level('DEBUG')
    for path in ('/', '/metrics', '/healthz', '/readyz', '/status.json', '/no/such'):
        ask(path)
    assert caplog.records
    assert [record for record in caplog.records if record.levelno > 10] == []


def test_closed_monitor_leaves_its_port_to_others(new_monitor):
    first = new_monitor()
    with pytest.raises(OSError, match='cannot listen at 127.0.0.1:'):
        Monitor(first.address)
    first.close()
    first.close()
    with contextlib.closing(Monitor(first.address)) as second:
        assert second.url == 'http://127.0.0.1:{1}/'.format(*first.address)


# -- the page -----------------------------------------------------------------------------------------

def test_page_allows_its_own_script_and_style_and_nothing_else(ask):
    status, headers, page = ask('/')
    policy = dict(part.strip().split(' ', 1) for part in headers['Content-Security-Policy'].split(';'))
    assert status == 200
    for tag in ('script', 'style'):
        content, = re.findall(f'<{tag}>(.*?)</{tag}>', page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert policy[f'{tag}-src'] == f"'sha256-{digest}'"
    assert (policy['default-src'], policy['connect-src']) == ("'none'", "'self'")


def test_page_needs_nothing_from_elsewhere_and_makes_no_html_of_texts(ask):
    page = ask('/')[2]
    links = re.findall(r'''(?:src|href)=["']([^"']*)''', page)
    assert [link for link in links if not link.startswith('data:')] == [
        'metrics', 'healthz', 'readyz', 'status.json']
    assert not re.search(r'innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(', page)
    assert 'style="' not in page


# -- sizes --------------------------------------------------------------------------------------------

def test_sizes_traffic_and_build_are_metrics(new_server, new_monitor, tmp_path):
    """Of a storage whose sizes are known; one that does not know them has none."""
    server = new_server({'1': FileStorage(str(tmp_path / 'Data.fs'), blob_dir=str(tmp_path / 'blobs')),
                         'other': MappingStorage()})
    commit(server.addr, storage='1')
    while any(status['sizes'] is None for status in server.ruok().values()):
        threading.Event().wait(0.001)
    found = samples(get(new_monitor(server).address, '/metrics')[2])
    sizes = server.server_status()['sizes']
    disk = ('zeo_disk_free_bytes', 'database and blobs', '1')
    assert found['zeo_database_bytes', '1'] == sizes['data'] >= 4
    assert found['zeo_blob_bytes', '1'] == found['zeo_blob_files', '1'] == 0
    assert 0 < found[disk] <= found[('zeo_disk_size_bytes', *disk[1:])]
    assert found['zeo_sent_bytes_total', '1'] > 100 < found['zeo_received_bytes_total', '1']
    assert found['zeo_timeouts_total', '1'] == found['zeo_silent_total', '1'] == 0
    assert found['zeo_storage_packing_seconds', '1'] == found['zeo_stalled_clients', '1'] == 0
    assert found['zeo_build_info', platform.python_version(), __version__] == 1
    assert ('zeo_blob_bytes', 'other') not in found
