"""Traces, and the two tools that read them."""
from __future__ import annotations

import pytest

from tests.cache.truth import p64
from zeo_clone.cache import ClientCache
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


def test_what_is_no_trace_is_refused_by_name(tmp_path):
    """T2."""
    (tmp_path / 'other').write_bytes(b'something else')
    with pytest.raises(ValueError, match='other is not a cache trace of zeo_clone'):
        list(read_trace(str(tmp_path / 'other')))
