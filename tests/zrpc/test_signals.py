"""C16: what is begun is finished, however many signals come; see also test_client_channel_interrupts.py."""
from __future__ import annotations

import sys

import pytest

from zeo_clone.zrpc.channel.signals import ATTEMPTS, guarded, surely


class Interrupt(BaseException):
    """What a signal's handler raises."""


class Interrupted:
    """A step that is done when it was called so often."""

    def __init__(self, times):
        self.errors = [Interrupt(number) for number in range(times)]
        self.seen = []

    def __call__(self, *args):
        self.seen.append(args)
        if self.errors:
            raise self.errors.pop(0)


def test_step_is_done_once_if_nothing_comes():
    step = Interrupted(0)
    surely(step, 1, 2)
    assert step.seen == [(1, 2)]


@pytest.mark.parametrize('times', [1, 2, len(ATTEMPTS) - 1])
def test_step_is_done_again_until_nothing_comes_and_then_the_first_exception_goes_on(times):
    step = Interrupted(times)
    with pytest.raises(Interrupt, match='0'):
        surely(step)
    assert len(step.seen) == times + 1


def test_a_step_that_cannot_be_done_is_given_up():
    step = Interrupted(1000)
    with pytest.raises(Interrupt, match='0'):
        surely(step)
    assert len(step.seen) == len(ATTEMPTS)


def test_after_work_that_was_done_nothing_is_finished():
    work, finish = Interrupted(0), Interrupted(0)
    guarded(work, finish, 'who')
    assert (work.seen, finish.seen) == ([('who',)], [])


@pytest.mark.parametrize('times', [0, 1, 15, 3 * len(ATTEMPTS)])
def test_after_work_that_was_interrupted_the_rest_is_finished_before_the_exception_goes_on(times):
    work, finish = Interrupted(1), Interrupted(times)
    work.errors = [KeyboardInterrupt('its own')]
    with pytest.raises(KeyboardInterrupt, match='its own'):
        guarded(work, finish, 'who')
    assert not finish.errors
    assert len(finish.seen) > times


def test_the_rest_is_finished_wherever_the_next_exception_comes():
    """Before each line that is run from then on, outside of every ``try`` included."""
    def finish(who):
        steps.append('begun')
        steps.append(who)

    def work(who):
        sys.settrace(trace)
        raise KeyboardInterrupt

    def trace(frame, event, arg):
        if frame.f_code not in (surely.__code__, finish.__code__):
            return None
        if event == 'line':
            lines.append((frame.f_code.co_name, frame.f_lineno))
            if len(lines) == last:
                raise Interrupt  # Python traces no more then
        return trace

    before, places = sys.gettrace(), set()
    for number in range(1, 20):
        steps, lines, last = [], [], number
        try:
            with pytest.raises(KeyboardInterrupt):
                guarded(work, finish, 'who')
        finally:
            sys.settrace(before)
        assert steps[-1] == 'who', lines
        places.add(lines[-1][0])
    assert places >= {'surely', 'finish'}
