"""How far a load and a commit travel: the house does not grow beyond what can be followed."""
from __future__ import annotations

import re
import subprocess
import sys

import pytest

from benchmarks import trips

pytestmark = pytest.mark.once


@pytest.fixture(scope='module')
def report():
    """In a process of its own: a tracer sees all threads of it."""
    return subprocess.run([sys.executable, '-m', 'benchmarks.trips', '--names'], check=True, text=True,
                          stdout=subprocess.PIPE).stdout


@pytest.mark.parametrize(('trip', 'most'), [
    ('cold load', 27), ('first warm load', 6), ('warm load', 2),
    ('commit of one object, another client is told', 50)])
def test_a_trip_touches_few_files(report, trip, most):
    """The more files, the fewer people can follow it; who needs one more merges two that belong together.

    One or two of them depend on who looks and who sleeps.
    """
    assert int(re.search(f'^{trip}: ([0-9]+) files', report, re.MULTILINE)[1]) <= most


def test_calls_are_named_in_their_order(report):
    names = re.search(r'warm load: 2 files\n.*\n +(.*)', report)[1]
    assert re.fullmatch(r'client/reading:\S*loadBefore > cache/cache:\S*loadBefore', names)


def test_no_circle_of_imports_in_the_rooms_of_client_and_cache():
    graph = trips.imports()
    assert {'client.link', 'cache.file'} <= set(graph)
    rooms = 'client', 'cache', 'loop', 'zrpc'
    assert [circle for circle in trips.circles(graph) if circle[0].startswith(rooms)] == []


def test_a_circle_is_found():
    graph = {'a': {'b'}, 'b': {'c'}, 'c': {'a', 'd'}, 'd': set(), 'e': {'a'}}
    assert trips.circles(graph) == [['a', 'b', 'c']]
    assert trips.between_rooms({'x.a': {'y.b', 'x.c'}, 'x.c': {'y.b'}, 'y.b': set()}) == {('x', 'y'): 2}
