"""N15, S16: log lines that repeat."""
from __future__ import annotations

import logging

import pytest

from tests.loop.runtimes import Clock
from zeo_clone.loop import throttle
from zeo_clone.loop.throttle import Throttle

log = logging.getLogger('test')


def test_a_line_comes_once_per_interval_and_counts_the_others():
    """N15."""
    clock = Clock()
    lines = Throttle(clock, 10)
    assert [lines.admits('a') for _ in range(4)] == ['', None, None, None]
    clock.now += 9.9
    assert lines.admits('a') is None
    clock.now += 0.1
    assert lines.admits('a') == ' (4 more of these in the last 10 s)'
    clock.now += 10
    assert lines.admits('a') == ''


def test_some_lines_may_come_at_once_before_they_are_counted():
    """N15: what is ordinary once or twice."""
    clock = Clock()
    lines = Throttle(clock, 10)
    assert [lines.admits('a', burst=3) for _ in range(5)] == ['', '', '', None, None]
    clock.now += 10
    assert [lines.admits('a', burst=3) for _ in range(2)] == [' (2 more of these in the last 10 s)', '']


def test_different_lines_and_peers_do_not_disturb_each_other():
    lines = Throttle(Clock())
    assert lines.admits('a') == ''
    assert lines.admits('b') == ''
    assert lines.admits('b', 'peer') == ''
    assert lines.admits('b', 'other') == ''
    assert lines.admits('a') is None
    assert lines.admits('b', 'other') is None


def test_many_addresses_get_no_more_lines():
    """S16: a peer that comes from everywhere."""
    clock = Clock()
    lines = Throttle(clock, 10)
    answers = [lines.admits('a', str(number)) for number in range(1000)]
    assert answers.count('') == throttle.MAX_PEERS + 1
    assert lines.admits('b', '999') == ''
    clock.now += 10
    assert lines.admits('a', '999') == f' ({1000 - throttle.MAX_PEERS - 1} more of these in the last 10 s)'


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(throttle, 'MAX_KEYS', 3)
    lines = Throttle(Clock())
    for key in 'abcdefgh':
        lines.admits(key)
    assert len(lines._known) <= 4


def test_what_was_quiet_for_long_is_forgotten():
    clock = Clock()
    lines = Throttle(clock)
    for number in range(500):
        lines.admits('a', str(number))
    clock.now += throttle.MEMORY_S
    assert lines.admits('a', 'new') == ''
    assert len(lines._known) == 1


def test_a_traceback_comes_with_the_first_line_only(caplog):
    """S16.  What is kept quiet can be seen at DEBUG."""
    caplog.set_level(logging.DEBUG)
    clock = Clock()
    lines = Throttle(clock, 10)

    def fail():
        lines.report(log, logging.ERROR, 'kind', 'peer', '%s failed', 'it', error=ValueError('why'))

    fail()
    fail()
    clock.now += 10
    fail()
    assert [(record.levelno, record.getMessage(), bool(record.exc_info)) for record in caplog.records] == [
        (logging.ERROR, 'it failed', True), (logging.DEBUG, 'it failed: ValueError: why', False),
        (logging.ERROR, 'it failed: ValueError: why (1 more of these in the last 10 s)', False)]
    assert {record.funcName for record in caplog.records} == {'fail'}


@pytest.mark.parametrize('text', ['100 %% %s', '%s {}'])
def test_the_text_of_a_line_is_formatted_by_logging(caplog, text):
    Throttle(Clock()).report(log, logging.WARNING, 'kind', '', text, 'x')
    assert caplog.records[0].getMessage() == text % 'x'
