"""The places of a manager's links, in any order in which the world can have things happen (C4)."""
from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from zeo_clone.client.places import ManagerState, Places
from zeo_clone.loop.runtime import REAL


class Found:
    """A link as places see it.  ``told``: somebody has it go."""

    def __init__(self):
        self.channel = SimpleNamespace(fate=None)
        self.told = False


class Happenings(RuleBasedStateMachine):
    """What a manager does with its places, while links come and go."""

    def __init__(self):
        super().__init__()
        self.places = Places(REAL)
        self.alive = []  # found, and not gone
        self.parting = []  # whose loss has been noticed
        self.closed = False

    @rule()
    def begin(self):
        if self.places.state is ManagerState.IDLE:
            assert self.places.begin()

    @precondition(lambda self: self.places.state is not ManagerState.IDLE)
    @rule()
    def find(self):
        link = Found()
        self.alive.append(link)
        who = self.places.choose(link)
        if who is not link:
            (who or link).told = True

    @precondition(lambda self: self.places.active)
    @rule()
    def verify(self):
        link = self.places.active
        if link in self.alive and link not in self.parting and link is not self.places.ready:
            verified = self.places.verified(link)
            assert verified == (self.places.ready is link) == (not self.closed)

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), interrupted=st.booleans())
    def lose(self, data, interrupted):
        link = data.draw(st.sampled_from(self.alive))
        in_use = link is self.places.ready
        assert self.places.part(link) or not in_use
        assert self.places.ready is not link
        if interrupted:
            assert self.places.part(link) or not in_use  # once more
        if in_use:
            self.places.parted()
        if link not in self.parting:
            self.parting.append(link)

    @precondition(lambda self: self.parting)
    @rule(data=st.data())
    def bury(self, data):
        link = data.draw(st.sampled_from(self.parting))
        was = self.places.active is link
        was_active, successor = self.places.gone(link)
        assert was_active == (was and not self.closed)
        assert successor is (self.places.active if was_active else None)
        assert successor is not link
        self.parting.remove(link)
        self.alive.remove(link)
        assert self.places.gone(link) == (False, None)  # told twice

    @rule()
    def new_addresses(self):
        for link in self.places.move_on():
            link.told = True
        link = Found()
        assert self.places.choose(link) is None

    @rule()
    def go_on(self):
        self.places.moved()

    @precondition(lambda self: len(self.alive) > 3)
    @rule()
    def close(self):
        new, links = self.places.close()
        assert new is not self.closed
        self.closed = True
        for link in links:
            link.told = True

    @invariant()
    def all_is_as_it_is_written(self):
        assert self.places.complaints() == []

    @invariant()
    def nobody_is_forgotten(self):
        """Who is alive has a place, or has been told to go, or is going."""
        places = {self.places.active, self.places._chosen}
        assert all(link in places or link.told or link in self.parting for link in self.alive)


TestPlaces = Happenings.TestCase


def connected():
    places, link = Places(REAL), Found()
    places.begin()
    assert places.choose(link) is link
    assert places.verified(link)
    return places, link


@pytest.mark.parametrize('spoil', [
    lambda places: setattr(places, 'active', None),
    lambda places: setattr(places, 'ready', Found()),
    lambda places: setattr(places, '_chosen', places.active),
    lambda places: setattr(places, '_parting', places.ready),
    lambda places: setattr(places, 'state', ManagerState.SEARCHING),
])
def test_complaints_are_made(spoil):
    places, _ = connected()
    assert places.complaints() == []
    spoil(places)
    assert places.complaints()


def test_who_is_doomed_is_not_used():
    places, link = connected()
    assert places.usable() is link
    link.channel.fate = ConnectionResetError()
    assert places.usable() is None


def test_a_thread_that_waits_hears_of_each_change():
    places = Places(REAL)
    states = []

    def watch():
        while not places.closed:
            places.wait(20)
            states.append(places.state)

    thread = threading.Thread(target=watch)
    thread.start()
    while not places._waiting:
        pass
    places.begin()
    while len(states) < 1 or not places._waiting:
        pass
    places.close()
    thread.join(20)
    assert states == [ManagerState.SEARCHING, ManagerState.CLOSED]
