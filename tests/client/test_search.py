"""The search: in which order servers are looked for, and which is chosen; nothing happens by itself."""
from __future__ import annotations

import pytest

from tests.server.desk import ClockRuntime, HandLoop
from zeo_clone.client import search as search_module
from zeo_clone.client.arguments import arguments
from zeo_clone.client.options import make_options
from zeo_clone.client.search import FALLBACK_PATIENCE_S, UPGRADE_PAUSE_S, Search
from zeo_clone.loop.runtime import Endpoint

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


# ---- what comes of attempts, by hand --------------------------------------------------------------

class Attempts:
    """Stands in for `Attempt`: each that was made, which a test lets succeed or fail."""

    def __init__(self):
        self.made = []

    def __call__(self, loop, target, options, owner):
        self.made.append(OneAttempt(target, owner))
        return self.made[-1]


class OneAttempt:
    doing = 'connecting'

    def __init__(self, target, owner):
        self.target = target
        self.failed = self.link = None
        self._owner = owner

    def connect(self):
        """Nothing happens by itself."""

    def fail(self, error):
        self.failed = error

    def comes_to(self, read_only):
        self.link = FoundLink(self.target, read_only)
        self._owner.attempt_registered(self, self.link)

    def comes_to_nothing(self, error='refused'):
        self._owner.attempt_failed(self, OSError(error))


class FoundLink:
    """A link as a search sees it."""

    def __init__(self, target, read_only):
        self.target = target
        self.read_only = read_only
        self.failed = None

    def fail(self, error):
        self.failed = error


class Numbers(ClockRuntime):
    """Where names need no name server."""

    def random(self):
        return 0.5

    def in_numbers(self, host, port):
        return [Endpoint(2, (host, port))]


@pytest.fixture
def by_hand(monkeypatch):
    """A search for a server that takes writes, or for a read-only one: the attempts, links found, all."""
    def begin(places=PLACES, runtime=None, **given):
        attempts, found = Attempts(), []
        monkeypatch.setattr(search_module, 'Attempt', attempts)
        loop = HandLoop(runtime or Numbers())
        given.setdefault('read_only_fallback', True)
        options = make_options(arguments(list(places), **given))
        made = Search(options, loop, lambda link: link, found.append)
        made.look_at(places)
        made.begin()
        return made, loop, attempts.made, found
    return begin


def test_a_server_that_takes_writes_is_used_at_once(by_hand):
    """N11: whatever has been found before it."""
    _, _, (first, second, _), found = by_hand()
    first.comes_to(read_only=True)
    assert not found
    second.comes_to(read_only=False)
    assert [link.read_only for link in found] == [False]


def test_a_read_only_server_is_used_when_no_other_has_come_for_a_while(by_hand):
    """N11, N17: a mute place delays it by this time and no more."""
    _, loop, attempts, found = by_hand()
    attempts[0].comes_to(read_only=True)
    attempts[1].comes_to_nothing()
    loop.turn()
    loop.advance(FALLBACK_PATIENCE_S)
    assert [link.target for link in found] == [attempts[0].target]


def test_a_read_only_server_is_used_at_once_when_all_others_have_failed(by_hand):
    """N11: and the time for which it would have waited is over with that."""
    made, loop, attempts, found = by_hand()
    attempts[0].comes_to(read_only=True)
    for one in attempts[1:]:
        one.comes_to_nothing()
    loop.turn()
    first, = found
    loop.advance(FALLBACK_PATIENCE_S / 2)
    made.resume()  # it has gone
    loop.advance(0.1)
    attempts[-1].comes_to(read_only=True)
    loop.advance(FALLBACK_PATIENCE_S / 2 + 0.1)
    assert found == [first]
    loop.advance(FALLBACK_PATIENCE_S / 2)
    assert len(found) == 2


def test_a_read_only_server_that_is_lost_while_it_waits_is_not_used(by_hand):
    """N11."""
    made, loop, attempts, found = by_hand()
    attempts[0].comes_to(read_only=True)
    made.lost(attempts[0].link)
    made.lost(attempts[0].link)  # told twice
    loop.advance(FALLBACK_PATIENCE_S)
    assert not found


def test_while_a_read_only_server_is_used_a_better_one_is_looked_for(by_hand):
    """N11: another that is read-only is none."""
    made, loop, attempts, found = by_hand(PLACES[:1])
    attempts[0].comes_to(read_only=True)
    made.stop()
    made.satisfied(found[0])
    for better in False, True:
        loop.advance(UPGRADE_PAUSE_S)
        attempts[-1].comes_to(read_only=not better)
    assert [link.read_only for link in found] == [True, False]
    assert len(attempts) == 3


def test_after_the_end_of_a_search_nothing_more_is_tried_or_used(by_hand):
    """C4, N16: an attempt that comes about all the same is told so."""
    made, loop, attempts, found = by_hand()
    attempts[0].comes_to(read_only=True)
    made.stop()
    attempts[1].comes_to(read_only=False)
    attempts[2].comes_to_nothing()
    made.go_on()
    loop.advance(60)
    assert not found and len(attempts) == 3
    assert all('another server is used' in str(one.failed) for one in (attempts[0].link, *attempts[1:]))


def test_the_log_says_what_each_place_is_doing(by_hand):
    """N13: an error, or what is waited for."""
    class Slow(Numbers):
        def in_numbers(self, host, port):
            return [] if host == 'c' else super().in_numbers(host, port)

        def start_thread(self, target, name, *, daemon=True):
            """The name server takes its time."""

    made, _, attempts, _ = by_hand(runtime=Slow())
    attempts[0].comes_to_nothing()
    assert made.news() == {'a:1': 'OSError: refused', 'b:1': 'connecting',
                           'c:1': 'its name is being looked up'}


def test_a_name_that_no_thread_could_look_up_is_looked_up_later(by_hand):
    """N2, N3: others of the container had used up its limit, say."""
    class Few(Numbers):
        threads = 0

        def in_numbers(self, host, port):
            return []

        def resolve(self, host, port):
            return [Endpoint(2, (host, port))]

        def start_thread(self, target, name, *, daemon=True):
            if not self.threads:
                raise RuntimeError("can't start new thread")
            target()

    made, loop, attempts, _ = by_hand(runtime=Few())
    assert made.news() == dict.fromkeys(['a:1', 'b:1', 'c:1'], "RuntimeError: can't start new thread")
    loop.runtime.threads = 1
    loop.advance(1.0)
    loop.turn()
    assert [str(one.target) for one in attempts] == ['a:1', 'b:1', 'c:1']


def test_a_name_is_looked_up_and_all_that_it_means_is_tried(by_hand):
    """N3, N16: what comes after the end of the search is not wanted any more."""
    class Names(Numbers):
        def in_numbers(self, host, port):
            return []

        def resolve(self, host, port):
            return [Endpoint(2, (number, port)) for number in ('192.0.2.1', '192.0.2.2', '192.0.2.2')]

        def start_thread(self, target, name, *, daemon=True):
            target()

    made, loop, attempts, _ = by_hand(PLACES[:1], Names(), io_thread=False)
    loop.turn()
    assert [str(one.target) for one in attempts] == ['192.0.2.1:1', '192.0.2.2:1']
    made.stop()
    made.begin()
    made.stop()
    loop.turn()
    assert len(attempts) == 2
