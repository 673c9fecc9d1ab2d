"""The dashboard for Grafana shows metrics that there are, and all that there are."""
from __future__ import annotations

import json
import re

import pytest
from prometheus_client.parser import text_string_to_metric_families
from ZODB.MappingStorage import MappingStorage

import zeo_clone
from tests.docs.pages import DOCS
from zeo_clone.monitor.exposition import DATABASE, DATABASE_COUNTERS, RELAY, RELAY_COUNTERS, Exposition
from zeo_clone.monitor.reporter import Report
from zeo_clone.thresholds import EXPIRES_S, HELD_S, WAITING

pytestmark = pytest.mark.once

NAME = re.compile(r'\b(?:zeo|process)_\w+')
#: Not shown: other views of what is, and of the process what nobody asked for.
LEFT_OUT = {
    'zeo_uptime_seconds', 'zeo_last_transaction_timestamp_seconds', 'zeo_storage_packing', 'zeo_blob_files',
    'zeo_max_strangers', 'zeo_client_received_bytes', 'zeo_database_cache_objects',
    'zeo_relay_cache_objects', 'process_virtual_memory_bytes', 'process_start_time_seconds',
    'process_max_fds'}


@pytest.fixture
def dashboard():
    return json.loads((DOCS / 'grafana.json').read_text(encoding='utf-8'))


@pytest.fixture
def families(new_server, client):
    """All metrics that there can be: of a server with TLS, whose storage has blobs, is being packed, and is
    in a database and of a server above, too."""
    server = new_server({'1': MappingStorage()}, measure=True)
    client(server.addr, client_label='x').ping()
    status = server.server_status()
    disk = {'holds': 'database', 'free': 1, 'size': 2}
    status |= {'tls_expires': 1e6, 'conflict_classes': {'a.B': 1},
               **{kind: dict.fromkeys([*gauges, *counters], 1) for kind, gauges, counters in (
                  ('database', DATABASE, DATABASE_COUNTERS), ('relay', RELAY, RELAY_COUNTERS))},
              'sizes': {'data': 1, 'pack': 1, 'blobs': 1, 'blob_files': 1, 'disks': [disk]}}
    _, text = Exposition().expose(Report({'1': status}, 0.0, 0.0), '')
    return list(text_string_to_metric_families(text.decode()))


def expressions(dashboard):
    return [target['expr'] for panel in dashboard['panels'] for target in panel['targets']]


def test_every_metric_of_the_dashboard_is_one_with_these_labels(dashboard, families):
    samples = {sample.name: sample.labels.keys() - {'le'} for family in families for sample in family.samples}
    shown = set()
    for expression in expressions(dashboard):
        for name, labels in re.findall(r'\b((?:zeo|process)_\w+)\{(.*?)\}', expression):
            shown.add(name)
            assert name in samples, expression
            asked = set(re.findall(r'(\w+)=~', labels)) - {'job'}  # which Prometheus adds
            assert asked <= samples[name], expression
    assert shown == {name for text in expressions(dashboard) for name in NAME.findall(text)}
    legends = [(target['expr'], label) for panel in dashboard['panels'] for target in panel['targets']
               for label in re.findall(r'\{\{(\w+)\}\}', target['legendFormat'])]
    for expression, label in legends:
        for name in NAME.findall(expression):
            assert label in samples[name] | {'instance'}, expression


def test_every_metric_is_in_the_dashboard_or_left_out_on_purpose(dashboard, families):
    text = ' '.join(expressions(dashboard))
    there = {family.name for family in families if family.name.startswith(('zeo_', 'process_'))}
    missing = {name for name in there if not re.search(rf'\b{name}(_total|_bucket)?\b', text)}
    assert missing == LEFT_OUT


def test_limits_of_the_dashboard_are_those_of_the_server(dashboard):
    limits = {panel['title']: panel['fieldConfig']['defaults'].get('thresholds', {'steps': []})
              for panel in dashboard['panels']}
    steps = {title: [step['value'] for step in found['steps']] for title, found in limits.items()}
    assert steps['Commit lock held for'] == [None, HELD_S]
    assert steps['Transactions waiting'] == [None, WAITING]
    assert steps['Certificate ends in'] == [None, 0, EXPIRES_S]


def test_panels_have_titles_and_places_of_their_own(dashboard):
    taken = set()
    for panel in dashboard['panels']:
        at = panel['gridPos']
        cells = {(x, y) for x in range(at['x'], at['x'] + at['w']) for y in range(at['y'], at['y'] + at['h'])}
        assert panel['title']
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert zeo_clone.__name__ in dashboard['title']
