"""N15: log lines that repeat."""
from __future__ import annotations

from tests.loop.runtimes import Clock
from zeo_clone.loop import throttle
from zeo_clone.loop.throttle import Throttle


def test_a_line_comes_once_per_interval_and_counts_the_others():
    """N15."""
    clock = Clock()
    lines = Throttle(clock, 10)
    assert [lines.admits('a') for _ in range(4)] == ['', None, None, None]
    clock.now += 9.9
    assert lines.admits('a') is None
    clock.now += 0.1
    assert lines.admits('a') == ' (and 4 times more before)'
    clock.now += 10
    assert lines.admits('a') == ''


def test_different_lines_do_not_disturb_each_other():
    lines = Throttle(Clock())
    assert lines.admits('a') == ''
    assert lines.admits('b') == ''
    assert lines.admits('a') is None


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(throttle, 'MAX_KEYS', 3)
    lines = Throttle(Clock())
    for key in 'abcdefgh':
        lines.admits(key)
    assert len(lines._last) <= 3
