"""Worker threads."""
from __future__ import annotations

import threading

import pytest

from zeo_clone.loop.core import Loop
from zeo_clone.server import workers
from zeo_clone.server.workers import TooBusy, Workers


@pytest.fixture
def loop():
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def pool(loop):
    pool = Workers(loop, 'test-worker', 2)
    yield pool
    pool.close()


def settle(loop, *deferreds):
    while not all(deferred.settled for deferred in deferreds):
        loop.turn(10)


def test_a_result_comes_back_in_the_loop_thread(loop, pool):
    threads = []
    deferred = pool.run('lane', lambda: threads.append(threading.get_ident()) or 7)
    deferred.when_settled(lambda *_: threads.append(threading.get_ident()))
    settle(loop, deferred)
    assert deferred.value == 7
    assert threads[0] != threads[1] == threading.get_ident()


def test_an_exception_comes_back_as_one(loop, pool):
    deferred = pool.run('lane', lambda: 1 // 0)
    settle(loop, deferred)
    assert isinstance(deferred.error, ZeroDivisionError)


def test_one_lane_runs_in_order(loop, pool):
    ran = []
    settle(loop, *[pool.run('lane', lambda number=number: ran.append(number)) for number in range(100)])
    assert ran == list(range(100))


def test_lanes_run_side_by_side(loop, pool):
    met = threading.Barrier(2, timeout=10)
    deferreds = [pool.run(lane, met.wait) for lane in 'ab']
    settle(loop, *deferreds)
    assert [deferred.error for deferred in deferreds] == [None, None]


def test_threads_are_bounded_and_no_lane_starves(loop, pool):
    """S5b."""
    seen = set()
    settle(loop, *[pool.run(lane, lambda: seen.add(threading.current_thread().name))
                   for lane in range(50) for _ in range(3)])
    assert 1 <= len(seen) <= 2


def test_a_lane_has_a_length(loop, pool, monkeypatch):
    """S5b."""
    monkeypatch.setattr(workers, 'MAX_LANE', 3)
    go = threading.Event()
    deferreds = [pool.run('lane', go.wait) for _ in range(3)]
    with pytest.raises(TooBusy, match='3 calls'):
        pool.run('lane', go.wait)
    other = pool.run('other', go.is_set)
    go.set()
    settle(loop, *deferreds, other)


def test_closing_ends_the_threads(loop):
    pool = Workers(loop, 'test-worker', 2)
    settle(loop, pool.run('a', int), pool.run('b', int))
    pool.close()
    pool.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith('test-worker')]
