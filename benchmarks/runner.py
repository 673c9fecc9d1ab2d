"""Runs workloads for all sides in alternation, round by round.

In: workloads, sides, sizes.  Out: `Results`.  For each workload of a round the sides take turns, so what is
compared was measured within seconds; who begins changes from round to round.  One thread.
"""
from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
from typing import NamedTuple

from benchmarks.arena import Arena, Databases
from benchmarks.dataset import Dataset
from benchmarks.postgres import Cluster, PostgresError, slow_disk
from benchmarks.sides import IN_POSTGRES
from tests.support.json_process import ChildError


class Spread(NamedTuple):
    """A figure of one side over all rounds."""

    median: float
    low: float
    high: float


class Results:
    """``values[workload, figure, side]``: one value per round, for workloads that the side has.

    ``failures`` are ``(workload, side, text)`` of measurements that did not succeed; the others count.
    """

    def __init__(self, workloads, sides):
        self.workloads = workloads
        self.sides = sides
        self.values = {}
        self.failures = []

    def add(self, workload, side, found):
        for figure in workload.figures:
            value = found[figure.key]
            if value is not None:
                self.values.setdefault((workload.name, figure.key, side.name), []).append(value)

    def spread(self, workload, figure, side):
        """The `Spread` of a figure, None if the side has none."""
        values = self.values.get((workload.name, figure.key, side.name))
        return values and Spread(statistics.median(values), min(values), max(values))

    def ratio(self, workload, figure, side):
        """How many times better we are than `side`; None if one of the two figures is missing or 0."""
        mine, theirs = (self.spread(workload, figure, each) for each in (self.sides[0], side))
        if not mine or not theirs or mine.median <= 0 or theirs.median <= 0:
            return None
        return mine.median / theirs.median if figure.more_is_better else theirs.median / mine.median

    def met(self, workload, figure):
        """Did we reach what is aimed at?  None if that cannot be said."""
        mine = self.spread(workload, figure, self.sides[0])
        if figure.limit is not None:
            return mine and mine.median <= figure.limit
        zeo = next((side for side in self.sides if side.package == 'ZEO'), None)
        ratio = zeo and self.ratio(workload, figure, zeo)
        return None if ratio is None or figure.aim is None else ratio >= figure.aim

    def rows(self):
        """Every ``(workload, figure)``."""
        return [(workload, figure) for workload in self.workloads for figure in workload.figures]


@contextlib.contextmanager
def ground(directory):
    """A place below `directory` in which also all temporary files of servers and clients will be."""
    before, was = tempfile.tempdir, os.environ.get('TMPDIR')
    with tempfile.TemporaryDirectory(prefix='zeo-clone-bench-', dir=directory) as place:
        os.environ['TMPDIR'] = tempfile.tempdir = place
        try:
            yield place
        finally:
            tempfile.tempdir = before
            if was is None:
                del os.environ['TMPDIR']
            else:
                os.environ['TMPDIR'] = was


class Suite:
    """Everything that stays the same from round to round, and ``results``.  A context manager."""

    def __init__(self, workloads, sides, sizes, directory, progress):
        self.results = Results(workloads, sides)
        self._workloads = workloads
        self._sides = sides
        self._sizes = sizes
        self._directory = directory
        self._progress = progress
        self._stack = contextlib.ExitStack()
        self._place = ''
        self._dataset = None
        self._databases = None

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self._place = stack.enter_context(ground(self._directory))
            self._progress(f'making {self._sizes.objects:,} objects')
            self._dataset = Dataset(self._place, self._sizes.objects, self._sizes.record_bytes)
            for side in self._sides:
                if side.kind in IN_POSTGRES and self._databases is None:
                    self._start_postgres(stack, side)
            self._stack = stack.pop_all()
        return self

    def _start_postgres(self, stack, side):
        """One for all sides that need it; without it they are left out."""
        self._progress(f'filling PostgreSQL for {side.label}')
        try:
            # Not below our place: the user that runs PostgreSQL could not enter it.
            cluster = stack.enter_context(Cluster(self._directory, slow_disk(self._sizes.sync_ms)))
            self._databases = Databases(cluster, side, self._sizes, self._dataset, self._place)
        except (PostgresError, ChildError) as error:
            self._progress(f'left out: all on PostgreSQL: {error}')
            self._sides = [other for other in self._sides if other.kind not in IN_POSTGRES]

    def __exit__(self, *_):
        self._stack.close()

    def run(self, rounds):
        """So many rounds of everything; the `Results`."""
        for number in range(rounds):
            for workload in self._workloads:
                self.turn(workload, number, f'round {number + 1} of {rounds}: ')
        return self.results

    def turn(self, workload, number, prefix):
        """Measure a workload once for each side that has it, the other way round in every other round."""
        turn = [side for side in self._sides if side.kind in workload.kinds]
        for side in turn if number % 2 == 0 else reversed(turn):
            self._progress(f'{prefix}{workload.name}, {side.label}')
            try:
                self.results.add(workload, side, self._measure(workload, side))
            except (ChildError, PostgresError) as error:
                self.results.failures.append((workload, side, str(error)))

    def _measure(self, workload, side):
        with Arena(side, self._sizes, self._dataset, self._databases, self._place,
                   workload.unix, workload.blobs) as arena:
            return workload.measure(arena)
