"""Worker threads."""
from __future__ import annotations

import threading

import pytest

from tests.server.desk import ClockRuntime
from zeo_clone.loop.core import Loop
from zeo_clone.loop.runtime import Runtime
from zeo_clone.server.backend import workers
from zeo_clone.server.backend.workers import Workers
from zeo_clone.server.vocabulary import TooBusy


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


def test_what_no_thread_can_be_started_for_is_done_by_others_or_fails():
    """C21, L9: a commit whose end was refused and done later would hold the lock for ever."""
    class Few(Runtime):
        left = 0

        def start_thread(self, target, name, *, daemon=True):
            if not self.left:
                raise RuntimeError("can't start new thread")
            self.left -= 1
            return super().start_thread(target, name, daemon=daemon)

    runtime, ran = Few(), []
    loop = Loop(runtime)
    pool = Workers(loop, 'test-worker', 2)
    try:
        refused = pool.run('lane', lambda: ran.append('refused'))
        assert str(refused.error) == "can't start new thread"
        runtime.left = 1
        go = threading.Event()
        first, second = pool.run('lane', go.wait), pool.run('other', lambda: ran.append('second'))
        go.set()
        settle(loop, first, second)
        assert (second.error, ran) == (None, ['second'])
    finally:
        pool.close()
        loop.close()


def test_closing_ends_the_threads(loop):
    pool = Workers(loop, 'test-worker', 2)
    settle(loop, pool.run('a', int), pool.run('b', int))
    pool.close()
    pool.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith('test-worker')]


# ---- what may take long -------------------------------------------------------------------------

def test_long_calls_leave_a_thread_for_short_ones(loop):
    """S14: however many clients ask for something long."""
    pool, go = Workers(loop, 'test-worker', 4), threading.Event()
    try:
        long = [pool.run(lane, lambda: go.wait(30), long=True) for lane in range(9)]
        settle(loop, pool.run('other', int), pool.run('another', int))
        assert not any(deferred.settled for deferred in long)
    finally:
        go.set()
    settle(loop, *long)
    pool.close()


def test_short_calls_leave_a_thread_for_long_ones(loop):
    """S14: a stream of short ones does not keep a long one waiting for ever."""
    pool, go, ran = Workers(loop, 'test-worker', 1), threading.Event(), []
    deferreds = [pool.run('first', lambda: go.wait(30))]
    deferreds += [pool.run(lane, lambda: ran.append('short')) for lane in range(3)]
    deferreds += [pool.run('last', lambda: ran.append('long'), long=True)]
    go.set()
    settle(loop, *deferreds)
    pool.close()
    assert ran == ['long', 'short', 'short', 'short']


def steps(name, ran, number):
    for _ in range(number):
        ran.append(name)
        yield
    return name


def test_what_is_done_in_steps_takes_turns(loop, monkeypatch):
    """S14: one thread, two clients: neither waits until the other is done."""
    monkeypatch.setattr(workers, 'run_slice', one_step)
    pool, ran, go = Workers(loop, 'test-worker', 2), [], threading.Event()
    first = [pool.run(lane, lambda: go.wait(30), long=True) for lane in ['x']]
    deferreds = [pool.run(lane, lambda lane=lane: steps(lane, ran, 5), long=True) for lane in 'ab']
    go.set()
    settle(loop, *first, *deferreds)
    pool.close()
    assert [deferred.value for deferred in deferreds] == ['a', 'b']
    assert ran == list('ababababab')


def one_step(steps, runtime):
    try:
        next(steps)
    except StopIteration as end:
        return end.value
    return steps


def test_an_error_in_a_later_step_comes_back(loop, pool):
    def failing():
        yield
        1 // 0  # noqa: B018

    deferred = pool.run('lane', failing, long=True)
    settle(loop, deferred)
    assert isinstance(deferred.error, ZeroDivisionError)


def test_a_lane_of_steps_keeps_its_order(loop, pool, monkeypatch):
    monkeypatch.setattr(workers, 'run_slice', one_step)
    ran = []
    settle(loop, pool.run('lane', lambda: steps('first', ran, 3), long=True),
           pool.run('lane', lambda: ran.append('second')))
    assert ran == ['first'] * 3 + ['second']


def test_a_slice_ends_when_its_time_is_over():
    """S14."""
    runtime, ran = ClockRuntime(), []

    def slow():
        for number in range(9):
            runtime.now += workers.SLICE_S / 2
            ran.append(number)
            yield
        return 'done'

    rest = slow()
    assert workers.run_slice(rest, runtime) is rest
    assert ran == [0, 1]
    while (value := workers.run_slice(rest, runtime)) is rest:
        pass
    assert value == 'done'
