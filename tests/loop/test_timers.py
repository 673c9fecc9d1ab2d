from __future__ import annotations

from tests.loop.runtimes import Clock
from zeo_clone.loop.timers import Timers


def make(*delays):
    """Timers that note their delays in a list when they are called."""
    clock, called = Clock(), []
    timers = Timers(clock)
    made = [timers.call_later(delay, lambda delay=delay: called.append(delay)) for delay in delays]
    return clock, timers, made, called


def fire(timers):
    for callback in timers.pop_due():
        callback()


def test_without_timers_there_is_no_limit_to_the_wait():
    _, timers, _, _ = make()
    assert timers.delay() is None
    assert len(timers) == 0


def test_timers_are_called_when_due_and_earliest_first():
    clock, timers, _, called = make(3, 1, 2, 5)
    fire(timers)
    assert called == []
    clock.now += 3
    fire(timers)
    assert called == [1, 2, 3]
    clock.now += 2
    fire(timers)
    assert called == [1, 2, 3, 5]


def test_delay_is_the_time_until_the_next_one_and_never_negative():
    clock, timers, _, _ = make(3, 1.5)
    assert timers.delay() == 1.5
    clock.now += 10
    assert timers.delay() == 0.0


def test_timer_is_called_once():
    clock, timers, _, called = make(1)
    clock.now += 1
    fire(timers)
    fire(timers)
    assert called == [1]
    assert timers.delay() is None


def test_cancelled_timer_is_not_called_and_not_waited_for():
    clock, timers, (first, _), called = make(1, 2)
    first.cancel()
    first.cancel()
    assert timers.delay() == 2
    assert len(timers) == 1
    clock.now += 2
    fire(timers)
    assert called == [2]


def test_timer_cancelled_by_one_of_the_same_turn_is_not_called():
    clock, timers, _, called = make()
    timers.call_later(1, lambda: second.cancel())
    second = timers.call_later(2, lambda: called.append('second'))
    clock.now += 5
    fire(timers)
    assert called == []


def test_timer_that_plans_itself_anew_without_delay_waits_for_the_next_turn():
    _, timers, _, called = make()

    def again():
        called.append('again')
        timers.call_later(0, again)

    timers.call_later(0, again)
    fire(timers)
    assert called == ['again']
    fire(timers)
    assert called == ['again', 'again']


def test_timers_of_the_same_time_are_called_in_the_order_in_which_they_were_planned():
    clock, timers, _, called = make()
    for number in range(20):
        timers.call_later(1, lambda number=number: called.append(number))
    clock.now += 1
    fire(timers)
    assert called == list(range(20))


def test_timers_after_one_that_was_interrupted_are_called_in_the_next_turn():
    clock, timers, _, called = make(1, 2)
    clock.now += 5
    callbacks = timers.pop_due()
    next(callbacks)
    callbacks.close()  # what an exception in the middle of a turn comes to
    fire(timers)
    assert called == [2]


def test_cancelling_after_the_call_changes_nothing():
    clock, timers, (timer,), called = make(1)
    clock.now += 1
    fire(timers)
    timer.cancel()
    assert called == [1]


def test_repr_shows_time_and_state():
    _, _, (timer,), _ = make(1)
    assert repr(timer) == '<Timer at 1001.000>'
    timer.cancel()
    assert repr(timer) == '<Timer at 1001.000 cancelled>'
