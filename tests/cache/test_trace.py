"""Traces, and the two tools that read them."""
from __future__ import annotations

import random
import sys

import pytest

from tests.cache.truth import p64
from zeo_clone.cache import ClientCache, simulate, trace_stats
from zeo_clone.cache.trace import CLEAR, HIT, INVALIDATE, MISS, OPENED, RECORD, STORE, read_trace
from zeo_clone.loop.runtime import Runtime

A, B = p64(1), p64(2)
Z64 = p64(0)


class Clock(Runtime):
    def __init__(self):
        self.now = 1_000_000.0

    def time(self):
        return self.now


@pytest.fixture(autouse=True)
def _no_trace(monkeypatch):
    monkeypatch.delenv('ZEO_CACHE_TRACE', raising=False)
    monkeypatch.delenv('ZEO_CLONE_CACHE_TRACE', raising=False)


@pytest.fixture
def trace(tmp_path, monkeypatch):
    path = str(tmp_path / 'x.trace')
    monkeypatch.setenv('ZEO_CLONE_CACHE_TRACE', path)
    return path


def test_a_trace_tells_what_was_asked_and_done(trace):
    cache = ClientCache(size=50_000, runtime=Clock())
    cache.load(A)
    cache.store(A, p64(5), None, b'data')
    cache.load(A)
    cache.loadBefore(A, p64(9))
    cache.loadBefore(A, p64(5))
    cache.invalidate(A, p64(8))
    cache.loadBefore(A, p64(8))
    cache.applyCommit(p64(9), [(A, b'xyz')])
    cache.invalidate(A, None)
    cache.clear()
    cache.close()
    assert [tuple(event) for event in read_trace(trace)] == [
        (1_000_000.0, *rest) for rest in [
            (0, OPENED, p64(50_000), Z64, Z64),
            (0, MISS, A, Z64, Z64),
            (4, STORE, A, p64(5), Z64),
            (4, HIT, A, p64(5), Z64),
            (4, HIT, A, p64(5), Z64),
            (0, MISS, A, Z64, p64(5)),
            (0, INVALIDATE, A, Z64, p64(8)),
            (4, HIT, A, p64(5), p64(8)),
            (3, STORE, A, p64(9), Z64),
            (0, INVALIDATE, A, Z64, Z64),
            (0, CLEAR, Z64, Z64, Z64)]]


def test_the_classic_variable_puts_the_trace_beside_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv('ZEO_CACHE_TRACE', 'yes')
    for _ in range(2):  # the second one is appended
        cache = ClientCache(tmp_path / 'c.zec', 50_000)
        cache.load(A)
        cache.close()
    ClientCache(size=50_000).close()
    kinds = [event.kind for event in read_trace(str(tmp_path / 'c.zec.trace'))]
    assert kinds == [OPENED, MISS, OPENED, MISS]
    assert {path.name for path in tmp_path.iterdir()} == {'c.zec', 'c.zec.lock', 'c.zec.trace'}


def test_a_directory_gets_one_trace_for_each_cache(tmp_path, monkeypatch):
    (tmp_path / 'traces').mkdir()
    monkeypatch.setenv('ZEO_CLONE_CACHE_TRACE', str(tmp_path / 'traces'))
    ClientCache(tmp_path / 'c.zec', 50_000).close()
    ClientCache(size=50_000).close()
    names = sorted(path.name.split('-')[0] for path in (tmp_path / 'traces').iterdir())
    assert names == ['c.zec', 'temporary']


def test_traces_of_processes_in_one_directory_are_apart(tmp_path, monkeypatch):
    """C26: containers have the same process ids."""
    monkeypatch.setenv('ZEO_CLONE_CACHE_TRACE', str(tmp_path))
    for _ in range(2):
        ClientCache(size=50_000).close()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_trace_that_cannot_be_written_is_no_reason_to_stop(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv('ZEO_CLONE_CACHE_TRACE', str(tmp_path / 'no' / 'x.trace'))
    cache = ClientCache(size=50_000)
    cache.load(A)
    cache.close()
    assert 'x.trace cannot be written: [Errno 2] No such file or directory' in caplog.text


def test_a_trace_that_ends_in_the_middle_is_read_up_to_there(trace):
    cache = ClientCache(size=50_000)
    cache.load(A)
    cache.close()
    with open(trace, 'ab') as file:
        file.write(bytes(RECORD.size - 1))
    assert len(list(read_trace(trace))) == 2


def worked(trace):
    """A client that reads 2,000 objects of 1,000 bytes at random, some much more often."""
    clock, rng = Clock(), random.Random(1)
    cache = ClientCache(size=500_000, runtime=clock)
    for tid in range(1, 10_001):
        clock.now += 1
        oid = p64(int(2000 * rng.random() ** 3))
        if cache.loadBefore(oid, p64(tid)) is None:
            cache.store(oid, p64(1), None, b'x' * 1000)
        if tid % 500 == 0:
            cache.invalidate(oid, None)
    stats = cache.stats()
    cache.close()
    return stats


def test_trace_stats_prints_hit_rates_over_time(trace, capsys):
    stats = worked(trace)
    assert trace_stats.main([trace, '--interval', '3600']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:5] == ['begins', '(UTC)', 'loads', 'hits', 'hits']
    assert lines[1].startswith('1970-01-12 13:00:00 ')
    assert len(lines) == 6
    total = lines[-1].split()
    assert total[:3] == ['all', '10000', str(stats['hits'])]
    assert float(total[3]) == pytest.approx(100 * stats['hits'] / 10_000, abs=0.06)
    assert int(total[5]) == stats['stores']
    assert sum(int(line.split()[2]) for line in lines[1:-1]) == 10_000


def test_simulate_tells_what_other_sizes_would_bring(trace, capsys):
    stats = worked(trace)
    assert simulate.main([trace]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    rates = [float(line[2]) for line in lines]
    assert len(rates) == 6
    assert rates == sorted(rates)
    assert rates[0] < rates[-1] - 10
    assert rates[2] == pytest.approx(stats['hits'] / 100, abs=1)  # the traced size


def test_simulate_predicts_what_a_cache_of_that_size_does(tmp_path, monkeypatch):
    """The same work with another size."""
    monkeypatch.setenv('ZEO_CLONE_CACHE_TRACE', str(tmp_path / 'x.trace'))
    worked(str(tmp_path / 'x.trace'))
    found, = simulate.simulate(read_trace(str(tmp_path / 'x.trace')), [200_000])
    monkeypatch.delenv('ZEO_CLONE_CACHE_TRACE')
    clock, rng = Clock(), random.Random(1)
    cache = ClientCache(size=200_000, runtime=clock)
    for tid in range(1, 10_001):
        oid = p64(int(2000 * rng.random() ** 3))
        if cache.loadBefore(oid, p64(tid)) is None:
            cache.store(oid, p64(1), None, b'x' * 1000)
        if tid % 500 == 0:
            cache.invalidate(oid, None)
    assert found.hit_rate == pytest.approx(cache.stats()['hits'] / 100, abs=2)
    cache.close()


def test_simulate_knows_old_revisions_and_clear(trace):
    cache = ClientCache(size=50_000)
    cache.store(A, p64(5), None, b'data')
    cache.invalidate(A, p64(8))
    cache.loadBefore(A, p64(8))   # hit
    cache.loadBefore(A, p64(5))   # miss
    cache.load(A)                 # miss
    cache.store(A, p64(8), None, b'data')
    cache.load(A)                 # hit
    cache.clear()
    cache.load(A)                 # miss
    cache.close()
    found, = simulate.simulate(read_trace(trace), [50_000])
    assert (found.hits, found.misses, len(found.kept)) == (2, 3, 0)
    nothing, = simulate.simulate(read_trace(trace), [0])
    assert (nothing.hits, nothing.misses) == (0, 5)


@pytest.mark.parametrize(('text', 'size'), [
    ('1000', 1000), ('20MB', 20 << 20), ('1.5kb', 1536), ('2GB', 2 << 30)])
def test_sizes_may_have_units(text, size):
    assert simulate.parse_size(text) == size


@pytest.mark.parametrize('tool', [trace_stats, simulate])
def test_what_is_not_a_trace_is_told(tool, tmp_path, capsys):
    other = tmp_path / 'other'
    other.write_bytes(b'something else')
    assert tool.main([str(other)]) == 1
    assert 'is not a cache trace of zeo_clone' in capsys.readouterr().err
    assert tool.main([str(tmp_path / 'missing')]) == 1
    assert 'No such file' in capsys.readouterr().err


@pytest.mark.parametrize('tool', [trace_stats, simulate])
def test_a_plot_without_matplotlib_is_explained_after_the_numbers(tool, trace, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    cache = ClientCache(size=50_000)
    cache.load(A)
    cache.close()
    with pytest.raises(SystemExit, match='needs matplotlib:  pip install "zeo_clone'):
        tool.main([trace, '--plot', 'x.png'])
    assert capsys.readouterr().out.count('\n') >= 3
