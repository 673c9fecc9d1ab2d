"""What is read out of traces of client caches."""
from __future__ import annotations

import random
import sys

import pytest

from tests.cache.test_trace import A, Clock
from tests.cache.truth import p64
from zeo_clone.cache import ClientCache
from zeo_clone.cache.trace import read_trace
from zeo_clone.commands import cache_simulate, cache_stats


@pytest.fixture
def trace(tmp_path, monkeypatch):
    path = str(tmp_path / 'x.trace')
    monkeypatch.setenv('ZEO_CLONE_CACHE_TRACE', path)
    return path


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


def test_cache_stats_prints_hit_rates_over_time(trace, capsys):
    stats = worked(trace)
    assert cache_stats.main([trace, '--interval', '3600']) == 0
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
    assert cache_simulate.main([trace]) == 0
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
    found, = cache_simulate.simulate(read_trace(str(tmp_path / 'x.trace')), [200_000])
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
    found, = cache_simulate.simulate(read_trace(trace), [50_000])
    assert (found.hits, found.misses, len(found.kept)) == (2, 3, 0)
    nothing, = cache_simulate.simulate(read_trace(trace), [0])
    assert (nothing.hits, nothing.misses) == (0, 5)


@pytest.mark.parametrize(('text', 'size'), [
    ('1000', 1000), ('20MB', 20 << 20), ('1.5kb', 1536), ('2GB', 2 << 30)])
def test_sizes_may_have_units(text, size):
    assert cache_simulate.parse_size(text) == size


@pytest.mark.parametrize('text', ['10XB', 'MB', '-1MB', 'nan'])
def test_what_is_not_a_size_is_told_with_what_is_one(text, capsys):
    with pytest.raises(SystemExit, match='2'):
        cache_simulate.main(['trace', '--', text])
    assert f"argument SIZE: '{text}' is not a size: a number of bytes" in capsys.readouterr().err


@pytest.mark.parametrize('tool', [cache_stats, cache_simulate])
def test_what_is_not_a_trace_is_told(tool, tmp_path, capsys):
    other = tmp_path / 'other'
    other.write_bytes(b'something else')
    assert tool.main([str(other)]) == 1
    assert 'is not a cache trace of zeo_clone' in capsys.readouterr().err
    assert tool.main([str(tmp_path / 'missing')]) == 1
    assert 'No such file' in capsys.readouterr().err


@pytest.mark.parametrize('tool', [cache_stats, cache_simulate])
def test_a_plot_without_matplotlib_is_explained_after_the_numbers(tool, trace, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, 'matplotlib', None)
    monkeypatch.setitem(sys.modules, 'matplotlib.figure', None)
    cache = ClientCache(size=50_000)
    cache.load(A)
    cache.close()
    with pytest.raises(SystemExit, match='needs matplotlib:  pip install "zeo_clone'):
        tool.main([trace, '--plot', 'x.png'])
    assert capsys.readouterr().out.count('\n') >= 3
