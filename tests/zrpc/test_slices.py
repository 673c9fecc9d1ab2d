"""Slices of a long log: everything, once, whatever is committed meanwhile."""
from __future__ import annotations

import pytest

from zeo_clone.zrpc import slices
from zeo_clone.zrpc.slices import in_slices


class Log:
    """An undo log of `size` entries, newest first; `commit` is called before each answer."""

    def __init__(self, size, commit=lambda log: None):
        self.entries = [{'id': number} for number in reversed(range(size))]
        self.asked = []
        self._commit = commit

    def grow(self, count=1):
        for _ in range(count):
            self.entries.insert(0, {'id': len(self.entries)})

    def __call__(self, first, last):
        if self.asked:
            self._commit(self)
        self.asked.append((first, last))
        return self.entries[first:last]


@pytest.fixture(autouse=True)
def small_slices(monkeypatch):
    monkeypatch.setattr(slices, 'SLICE', 10)


def ids(log, first, last):
    return [entry['id'] for entry in in_slices(log, first, last)]


@pytest.mark.parametrize('first, last', [
    (0, 0), (0, 5), (0, 10), (0, 25), (3, 17), (0, 10 ** 20), (40, 50), (7, 3)])
def test_it_is_what_one_question_would_have_answered(first, last):
    """L11."""
    assert ids(Log(25), first, last) == list(reversed(range(25)))[first:last]


def test_no_slice_is_large():
    """L11: nobody has to make, send or take a large answer."""
    log = Log(25)
    ids(log, 0, 10 ** 20)
    assert log.asked == [(0, 10), (10, 20), (20, 30)]


def test_what_fits_into_one_slice_is_one_question():
    log = Log(25)
    ids(log, 3, 10)
    assert log.asked == [(3, 10)]


@pytest.mark.parametrize('count', [1, 3, 10])
def test_what_is_committed_meanwhile_neither_hides_an_entry_nor_doubles_one(count):
    """L11."""
    log = Log(25, lambda log: len(log.entries) < 60 and log.grow(count))
    assert ids(log, 0, 10 ** 20) == list(reversed(range(25)))


def test_as_many_come_as_were_asked_for():
    log = Log(50, lambda log: log.grow(2))
    assert len(ids(log, 0, 35)) == 35
