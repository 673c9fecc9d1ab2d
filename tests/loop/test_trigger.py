from __future__ import annotations

import select
import threading

import pytest

from zeo_clone.loop.runtime import REAL, Runtime
from zeo_clone.loop.trigger import Trigger


@pytest.fixture
def trigger():
    trigger = Trigger(REAL)
    yield trigger
    trigger.close()


def wait(trigger, timeout_ms=None):
    """Is there something to take?  Not by `select`, which knows no descriptors above 1,023."""
    poll = select.poll()
    poll.register(trigger.fileno(), select.POLLIN)
    return bool(poll.poll(timeout_ms))


def readable(trigger):
    return wait(trigger, 0)


def call_all(trigger):
    return [callback() for callback in trigger.take()]


def test_descriptor_is_readable_after_a_pull_and_not_after_take(trigger):
    assert not readable(trigger)
    trigger.pull()
    assert readable(trigger)
    assert call_all(trigger) == []
    assert not readable(trigger)


def test_callbacks_come_out_in_the_order_in_which_they_went_in(trigger):
    for number in range(10):
        trigger.pull(lambda number=number: number)
    assert call_all(trigger) == list(range(10))
    assert call_all(trigger) == []


def test_callback_handed_in_by_a_callback_waits_for_the_next_take(trigger):
    trigger.pull(lambda: trigger.pull(lambda: 'second'))
    assert call_all(trigger) == [None]
    assert readable(trigger)
    assert call_all(trigger) == ['second']


def test_more_wake_ups_than_the_pipe_holds_neither_block_nor_get_lost(trigger):
    for number in range(100_000):
        trigger.pull(lambda number=number: number)
    assert call_all(trigger) == list(range(100_000))
    assert not readable(trigger)


def test_pulls_of_many_threads_all_arrive_each_thread_s_in_order(trigger):
    threads, each = 8, 2000
    seen = []

    def pull(name):
        for number in range(each):
            trigger.pull(lambda number=number: (name, number))

    pullers = [threading.Thread(target=pull, args=(name,)) for name in range(threads)]
    for thread in pullers:
        thread.start()
    while len(seen) < threads * each:
        # Waits for ever if a wake-up is lost: there is no time limit here that could hide it.
        wait(trigger)
        seen += call_all(trigger)
    for thread in pullers:
        thread.join()
    for name in range(threads):
        assert [number for who, number in seen if who == name] == list(range(each))


def test_callbacks_after_one_that_was_interrupted_wait_for_the_next_take(trigger):
    for number in range(3):
        trigger.pull(lambda number=number: number)
    callbacks = trigger.take()
    assert next(callbacks)() == 0
    callbacks.close()  # what an exception in the middle of a turn comes to
    assert readable(trigger)
    assert call_all(trigger) == [1, 2]


def test_pull_after_close_does_nothing(trigger):
    called = []
    trigger.close()
    trigger.pull()
    trigger.pull(lambda: called.append(1))
    assert called == []


def test_close_may_be_called_twice(trigger):
    trigger.close()
    trigger.close()


def test_pull_of_a_trigger_that_is_broken_is_an_error(trigger):
    """Whoever waits for the callback would wait for ever."""
    class Known(Runtime):
        def socketpair(self):
            self.reader, writer = super().socketpair()
            return self.reader, writer

    runtime = Known()
    broken = Trigger(runtime)
    runtime.reader.close()
    with pytest.raises(OSError):
        broken.pull(lambda: None)
    broken.close()
    broken.pull(lambda: None)
