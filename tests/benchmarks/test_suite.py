"""Every workload runs and says what it promises, and what is printed is what was measured."""
from __future__ import annotations

import json
import re
import signal
import subprocess
import sys

import pytest

from benchmarks import catalog, growth, load, plot, table
from benchmarks.__main__ import BUSY, crowd, main
from benchmarks.arena import Arena, Sizes
from benchmarks.dataset import Dataset
from benchmarks.runner import Results, Suite
from benchmarks.sides import CLIENT, FILE, Side, ours
from benchmarks.workloads.commits import WRITERS
from benchmarks.workloads.others import overlapping

pytestmark = [pytest.mark.long, pytest.mark.once]

TINY = Sizes(objects=40, record_bytes=200, seconds=0.01, blob_mb=1, cache_objects=500, writers=WRITERS,
             all_writers=WRITERS)
PEER = Side('peer', 'a peer', CLIENT, 'python', 'ZEO')
FAST, SLOW = catalog.Figure('rate', 'fast', 'loads/s', True, 4.0), catalog.Figure('ms', 'slow', 'ms')
NARROW = catalog.Figure('ms', 'narrow', 'ms', limit=50)


def no_progress(text):
    pass


@pytest.fixture(scope='module')
def arena(tmp_path_factory):
    """One server and its clients for all workloads: what takes time is to start processes."""
    parent = tmp_path_factory.mktemp('bench')
    with Arena(ours(), TINY, Dataset(parent, TINY.objects, TINY.record_bytes), None, parent,
               unix=True, blobs=True) as arena:
        arena.clients(WRITERS)  # no workload needs more; what a test itself started must end with it
        yield arena


@pytest.fixture
def results():
    """Two rounds of one workload: we are twice as fast as a peer, and half as slow."""
    results = Results([catalog.Workload('both', None, (FAST, SLOW))], [ours(), PEER])
    for value in (90.0, 110.0):
        results.add(results.workloads[0], results.sides[0], {'rate': 2 * value, 'ms': value})
        results.add(results.workloads[0], PEER, {'rate': value, 'ms': 2 * value})
    return results


@pytest.mark.parametrize('workload', catalog.WORKLOADS, ids=lambda workload: workload.name)
def test_workload_measures_its_figures(workload, arena):
    found = workload.measure(arena)
    assert {figure.key for figure in workload.figures} <= found.keys()
    for figure in workload.figures:
        value = found[figure.key]
        assert value is None or value >= 0
        if figure.more_is_better:
            assert value > 0


@pytest.mark.parametrize('side', [ours(), Side('filestorage', 'FileStorage', FILE, ours().python)],
                         ids=lambda side: side.name)
def test_syncs_take_longer_on_a_slow_disk(side, tmp_path):
    """At least one for each commit: whoever has the file, server or client, has the disk."""
    workload, = catalog.choose(['commit-1'])
    with Suite([workload], [side], TINY._replace(sync_ms=20.0), tmp_path, no_progress) as suite:
        results = suite.run(1)
    assert not results.failures
    assert results.spread(workload, workload.figures[0], side).high <= 1 / 0.020


def test_bare_file_storage_has_the_workloads_that_it_claims(tmp_path):
    side = Side('filestorage', 'FileStorage', FILE, ours().python)
    workloads = [workload for workload in catalog.choose(['cold', 'commit-1000', 'connect'])
                 if FILE in workload.kinds]
    with Suite(workloads, [ours(), side], TINY, tmp_path, no_progress) as suite:
        results = suite.run(1)
    assert not results.failures
    assert results.ratio(workloads[0], workloads[0].figures[0], side) > 0
    assert results.spread(workloads[0], workloads[0].figures[2], side) is None  # it has no server
    assert list(tmp_path.iterdir()) == []


def test_failure_of_one_side_does_not_end_the_run(tmp_path):
    broken = Side('broken', 'a broken peer', CLIENT, ours().python, 'no_such_package')
    with Suite(catalog.choose(['connect']), [ours(), broken], TINY, tmp_path, no_progress) as suite:
        results = suite.run(1)
    (workload, side, text), = results.failures
    assert (workload.name, side) == ('connect', broken)
    assert 'no_such_package' in text
    assert table.comparison(results).splitlines()[-1].split('|')[4].strip() == '-'


def test_ratio_above_one_means_better(results):
    assert [results.ratio(*row, PEER) for row in results.rows()] == [2.0, 2.0]


def test_table_shows_median_and_spread(results):
    head, rule, fast, slow = table.comparison(results).splitlines()
    assert [cell.strip() for cell in head.strip('|').split('|')] == [
        'workload', 'unit', 'zeo_clone', 'a peer', 'ratio', 'aim', '']
    assert [cell.strip() for cell in fast.strip('|').split('|')] == [
        'fast', 'loads/s', '200 (180-220)', '100 (90.0-110)', '2.00x', '4.00x', 'MISSED']
    assert len({len(line) for line in (head, rule, fast, slow)}) == 1


def test_aims_are_told_from_what_was_reached(results):
    workload, = results.workloads
    assert [results.met(workload, figure) for figure in (FAST, SLOW, NARROW)] == [False, True, False]
    assert [results.met(workload, figure) for figure in (SLOW._replace(aim=None), NARROW._replace(limit=100))
            ] == [None, True]


def test_slope_is_flagged_if_steeper_than_linear(results):
    workload, = results.workloads
    after = Results([workload], [results.sides[0]])
    after.add(workload, after.sides[0], {'rate': 20.0, 'ms': 110.0})
    objects = growth.compare(results, after, catalog.OBJECTS)
    assert [(slope.cost, slope.linear) for slope in objects] == [(10.0, 1), (1.1, 1)]
    assert [slope.steeper for slope in objects] == [True, False]
    assert [slope.steeper for slope in growth.compare(results, after, catalog.SIZE)] == [False, False]
    assert table.growth(objects).count('STEEPER') == 1


def test_growth_measures_each_axis_that_makes_sense(tmp_path):
    workloads = catalog.choose(['objects-cold'])
    slopes, failures = growth.measure(workloads, [ours()], TINY, tmp_path, 1, no_progress)
    assert not failures
    assert [slope.axis for slope in slopes] == [catalog.OBJECTS]


def test_command_prints_a_table_and_writes_json(tmp_path, capsys):
    path = tmp_path / 'found.json'
    assert main(['warm', '--alone', '--rounds', '2', '--seconds', '0.01', '--objects', '40',
                 '--directory', str(tmp_path), '--json', str(path)]) == 0
    shown = capsys.readouterr().out
    assert f'Data in {tmp_path} (on a file system), 40 objects of 1,000 bytes' in shown
    figures = r'[\d,]+ \([\d,]+-[\d,]+\)'
    assert re.search(rf'^\| warm load +\| loads/s +\| +{figures} \| 2.20x \| +\|$', shown, re.MULTILINE)
    found = json.loads(path.read_text())
    assert found['sides'] == {'zeo_clone': 'zeo_clone'}
    assert found['conditions']['rounds'] == 2
    figure, = found['figures']
    assert figure['workload'] == 'warm'
    assert len(figure['rounds']['zeo_clone']) == 2
    assert min(figure['rounds']['zeo_clone']) <= figure['median']['zeo_clone']


@pytest.mark.parametrize('arguments, complaint', [
    (['nonsense'], "unknown workload nonsense: there are cold, "),
    (['--peer', 'zeo7'], "unknown peer 'zeo7': give NAME=PATH, or one of zeo6, relstorage, filestorage"),
    (['--peer', 'mine=/no/such/python'], '/no/such/python: '),
    (['--json', '/no/such/found.json'], '/no/such/found.json: there is no such directory'),
    (['--directory', '/no/such'], '--directory /no/such: there is no such directory'),
    (['--rounds', '0'], '--rounds 0: it must be 1 or more'),
    (['--crowd', '-1'], '--crowd -1: it must be 0 to 100 processes'),
    (['--scale', '--plot', 'x.png'], '--plot draws ratios to peers: not with --scale'),
    (['--alone', '--plot', 'x.png'], '--plot draws ratios to peers: '),
])
def test_command_refuses(arguments, complaint, capsys):
    with pytest.raises(SystemExit) as refused:
        main(arguments)
    assert refused.value.code == 2
    assert complaint in capsys.readouterr().err


def test_crowd_is_there_until_the_end():
    with crowd(2) as busy:
        assert [process.poll() for process in busy] == [None, None]
    assert [process.returncode for process in busy] == [-signal.SIGKILL, -signal.SIGKILL]


def test_crowd_goes_when_who_started_it_has_gone():
    script = ('import os, subprocess, sys; '
              'subprocess.Popen([sys.executable, sys.argv[1], str(os.getpid())])')
    subprocess.run([sys.executable, '-c', script, BUSY], stdout=subprocess.PIPE, check=True)
    # And returned: what it started has closed its end of the pipe, too.


def test_plot_needs_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    with pytest.raises(SystemExit, match=r'--plot needs matplotlib:  pip install "zeo_clone\[plot\]"'):
        main(['--plot', 'x.png'])


def test_plot_is_a_picture(results, tmp_path):
    pytest.importorskip('matplotlib', reason='matplotlib is not installed')
    plot.save(tmp_path / 'bars.png', results)
    assert (tmp_path / 'bars.png').read_bytes().startswith(b'\x89PNG')


def test_loads_and_commits_have_a_short_form():
    assert load.arguments(['--rounds', '1'])[-4:] == ['--peer', 'zeo6', '--rounds', '1']
    assert load.arguments(['--alone'])[-2:] == ['commit-1000', '--alone']
    assert len(catalog.choose(load.WORKLOADS)) == 5


def test_only_loads_that_overlap_an_interval_count():
    loads = [(0.0, 1.0), (2.0, 0.5), (2.5, 1.0), (4.0, 0.5), (7.0, 1.0), (9.0, 1.0)]
    assert list(overlapping(loads, [(3.0, 4.0), (7.5, 7.6), (7.7, 8.0)])) == [1.0, 0.5, 1.0]
    assert list(overlapping(loads, [])) == []
