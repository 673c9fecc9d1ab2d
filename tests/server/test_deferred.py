"""A result that comes later: settled once, from whatever a method of a session may return."""
from __future__ import annotations

import pytest

from tests.server.desk import ClockRuntime, HandLoop
from zeo_clone.server.deferred import Deferred, settle_with


@pytest.fixture
def loop():
    return HandLoop(ClockRuntime())


def test_the_first_settlement_counts_and_is_told_once():
    """S3."""
    told = []
    early, late = Deferred(), Deferred()
    early.when_settled(lambda *end: told.append(end))
    assert 'open' in repr(early)
    for deferred in early, late:
        deferred.succeed(5)
        deferred.fail(ValueError('too late'))
    late.when_settled(lambda *end: told.append(end))
    assert told == [(5, None)] * 2
    assert 'settled' in repr(early)


def parts(count, error=None):
    for _ in range(count):
        yield
    if error is not None:
        raise error
    return 'done'


def later(value):
    deferred = Deferred()
    deferred.succeed(value)
    return deferred


ERROR = ValueError('no')


def fail():
    raise ERROR


@pytest.mark.parametrize(('function', 'end'), [
    (lambda: 5, (5, None)), (fail, (None, ERROR)), (lambda: later(5), (5, None)),
    (lambda: parts(3), ('done', None)), (lambda: parts(3, ERROR), (None, ERROR))])
def test_what_a_method_returns_settles_it(loop, function, end):
    """S3, S11: a generator is run part by part, one in each turn."""
    answer = Deferred()
    settle_with(loop, answer, function)
    loop.turn()
    assert (answer.settled, answer.value, answer.error) == (True, *end)


def test_others_have_the_loop_between_two_parts(loop):
    """S11."""
    answer = Deferred()
    settle_with(loop, answer, lambda: parts(2))
    for left in 2, 1:
        assert not answer.settled and len(loop.callbacks) == 1, left
        loop.callbacks.pop(0)()
    assert answer.settled
