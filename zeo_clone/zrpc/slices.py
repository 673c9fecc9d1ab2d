"""Slices: a long undo log, asked for some entries at a time of somebody who only knows "from first to last".

In: a function that answers for a slice, newest entries first.  Out: all entries, each once, however many
transactions are committed meanwhile.  Pure functions.
"""
from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

#: Entries that are asked for at once.  Whoever answers counts from the newest entry each time, so a slice is
#: to be long; a message has 1,000,000 opcodes at most, so each entry of a slice may have 200.
SLICE = 5000
#: So many more than are missing, since what is committed meanwhile comes first.
SPARE = 100

Entry = dict[str, Any]


def in_slices(ask: Callable[[int, int], list[Entry]], first: int, last: int
              ) -> Generator[Entry, None, None]:
    """The entries `first` to `last`, itself excluded, of a log; ``ask(first, last)`` is a slice of it.

    What is committed between two questions moves the entries towards the end: those that have come already
    are left out, and more is asked for instead.
    """
    known: set[Any] = set()  # the ids of the slice before
    left, spare = last - first, 0
    while left > 0:
        wanted = min(SLICE, left + spare)
        entries = ask(first, first + wanted)
        for entry in entries:
            if left > 0 and entry['id'] not in known:
                yield entry
                left -= 1
        if len(entries) < wanted:
            break
        known, spare = {entry['id'] for entry in entries}, SPARE
        first += wanted
