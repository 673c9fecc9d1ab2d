"""How costs grow: the same workloads with ten times the objects, the clients, the size of an object.

Out: `Slope`, which compares the cost of one unit (of one operation, say) before and after.  Linear means that
this cost stays, or becomes tenfold where the unit itself does: a record ten times as large may take ten times
as long, and telling ten times as many clients too.
"""
from __future__ import annotations

from typing import Any, NamedTuple

from benchmarks.catalog import CROWD, OBJECTS, SIZE
from benchmarks.runner import Suite

TENFOLD = 10
NOISE = 1.25  # what is steeper by less cannot be told from chance
AXES = (OBJECTS, CROWD, SIZE)


class Slope(NamedTuple):
    """A figure of a side, medians before and after `axis` grew tenfold."""

    workload: Any
    figure: Any
    side: Any
    axis: str
    before: float
    after: float

    @property
    def cost(self):
        """What one unit costs after, in multiples of before."""
        return self.before / self.after if self.figure.more_is_better else self.after / self.before

    @property
    def linear(self):
        """What this cost may be."""
        return TENFOLD if self.axis in self.figure.grows else 1

    @property
    def steeper(self):
        return self.cost > self.linear * NOISE


def grown(sizes, axis):
    """The sizes with ten times as much of one thing."""
    if axis == OBJECTS:
        return sizes._replace(objects=TENFOLD * sizes.objects, cache_objects=TENFOLD * sizes.cache_objects)
    if axis == CROWD:
        return sizes._replace(crowd=TENFOLD * sizes.crowd)
    return sizes._replace(record_bytes=TENFOLD * sizes.record_bytes, blob_mb=TENFOLD * sizes.blob_mb)


def measure(workloads, sides, sizes, directory, rounds, progress):
    """The slopes of all figures of `workloads` and the failures ``[(workload, side, text)]``.

    Before and after are measured in turns, as sides are: machines have moods.
    """
    slopes, failures = [], []
    for axis in AXES:
        chosen = [workload for workload in workloads if axis in workload.axes]
        if not chosen:
            continue
        with (Suite(chosen, sides, sizes, directory, progress) as small,
              Suite(chosen, sides, grown(sizes, axis), directory, progress) as large):
            for number in range(rounds):
                for workload in chosen:
                    small.turn(workload, number, f'round {number + 1} of {rounds}: ')
                    large.turn(workload, number, f'round {number + 1} of {rounds}, ten times the {axis}: ')
        failures += small.results.failures + large.results.failures
        slopes += compare(small.results, large.results, axis)
    return slopes, failures


def compare(before, after, axis):
    """The slopes along one axis, of figures that both results have and that are not 0."""
    found = []
    for workload, figure in after.rows():
        for side in after.sides:
            spreads = [results.spread(workload, figure, side) for results in (before, after)]
            if all(spread is not None and spread.median > 0 for spread in spreads):
                medians = [spread.median for spread in spreads]
                found.append(Slope(workload, figure, side, axis, *medians))
    return found
