"""The order in which servers are looked for (C4): places are names that nobody can look up."""
from __future__ import annotations

import pytest

from tests.server.desk import ClockRuntime, HandLoop
from zeo_clone.client.arguments import arguments
from zeo_clone.client.options import make_options
from zeo_clone.client.search import Search

PLACES = (('a', 1), ('b', 1), ('c', 1))


class Runtime(ClockRuntime):
    """`asked`: which names were looked up; `numbers`: what comes by chance."""

    def __init__(self, numbers):
        super().__init__()
        self.asked = []
        self._numbers = list(numbers)

    def random(self):
        return self._numbers.pop(0)

    def in_numbers(self, host, port):
        return []

    def resolve(self, host, port):
        self.asked.append(host)
        raise OSError('nobody knows')

    def start_thread(self, target, name, *, daemon=True):
        target()


@pytest.fixture
def search():
    """Of a client of PLACES: `search(numbers, **options)`, begun."""
    def begin(numbers=(), **given):
        loop = HandLoop(Runtime(numbers))
        made = Search(make_options(arguments(list(PLACES), **given)), loop, None, None)
        made.look_at(PLACES)
        made.begin()
        return made, loop
    return begin


def test_all_are_tried_at_once_in_the_order_given(search):
    _, loop = search()
    assert loop.runtime.asked == ['a', 'b', 'c']


def test_clients_that_spread_try_one_by_chance_first_and_then_all(search):
    """The first one is not overtaken by a nearer one."""
    made, loop = search([0.9, 0.1, 0.5, 0.0, 0.3, 0.2, 0.1, 0.0], spread=True)
    assert loop.runtime.asked == ['b']
    loop.turn()  # nobody knows that name
    loop.advance(1.0)
    assert loop.runtime.asked == ['b', 'c', 'b', 'a']
    made.stop()


def test_after_a_loss_they_spread_again(search):
    made, loop = search([0.9, 0.1, 0.5, 0.0, 0.0, 0.2, 0.3, 0.1, 0.0], spread=True)
    made.resume()
    loop.advance(1.0)
    assert loop.runtime.asked == ['b', 'c']
    made.stop()
