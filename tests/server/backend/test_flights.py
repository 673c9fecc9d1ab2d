"""Loads under way, and what was changed meanwhile (C1): answers come when a test gives them."""
from __future__ import annotations

import pytest
from ZODB.POSException import POSKeyError
from ZODB.utils import maxtid, p64

from zeo_clone.server.backend.aside.loads import Loads
from zeo_clone.server.backend.flights import Flights, Waiting, load_batch
from zeo_clone.server.deferred import Deferred

OID, OTHER, THIRD = p64(1), p64(2), p64(3)
FIRST, SECOND, LATER = p64(10), p64(20), p64(30)
BROKEN = OSError(5, 'broken')


class World:
    """Loads, and those that were started: ``(oid, before)``."""

    def __init__(self):
        self.flights = Flights()
        self.started = []
        self.error = None
        self.loads = Loads(self.flights, self._start, lambda: 0.0)

    def _start(self, oid, before):
        if self.error is not None:
            raise self.error
        self.started.append((oid, before))

    def arrive(self, revision=None, error=None):
        """The answer to the load that was started last."""
        self.loads.arrived(*self.started[-1], revision, error)


@pytest.fixture
def world():
    return World()


def end(deferred):
    assert deferred.settled
    return deferred.value if deferred.error is None else deferred.error


def test_who_wants_the_same_waits_for_one_load(world):
    """C1, D1."""
    answers = [world.loads.load(OID, before) for before in (maxtid, maxtid, LATER)]
    assert world.started == [(OID, maxtid)]
    assert len(world.loads) == 1 and '1 under way' in repr(world.loads)
    world.arrive((b'data', FIRST, None))
    assert [end(answer) for answer in answers] == [(b'data', FIRST, None)] * 3
    assert len(world.flights) == 0


def test_who_wants_an_older_revision_has_it_loaded_then(world):
    """C1."""
    newest, older = world.loads.load(OID, maxtid), world.loads.load(OID, SECOND)
    world.arrive((b'new', SECOND, None))
    assert end(newest) == (b'new', SECOND, None) and not older.settled
    assert world.started[-1] == (OID, SECOND)
    world.arrive((b'old', FIRST, SECOND))
    assert end(older) == (b'old', FIRST, SECOND)


def test_an_answer_that_was_overtaken_is_asked_for_again(world):
    """C1: what is current has to be what is told last."""
    answer = world.loads.load(OID, maxtid)
    for tid, oids in (FIRST, [OID]), (SECOND, [OTHER, OID]), (LATER, [OID]):
        world.flights.changed(tid, oids)
    world.arrive((b'data', FIRST, None))
    assert not answer.settled  # what is current now was read too early
    assert world.started[-1] == (OID, maxtid)
    world.arrive((b'newest', LATER, None))
    assert end(answer) == (b'newest', LATER, None)


def test_an_answer_for_a_time_before_the_change_is_as_good_as_before(world):
    """C1."""
    answer = world.loads.load(OID, SECOND)
    world.flights.changed(SECOND, [OID])
    world.arrive((b'data', FIRST, None))
    assert end(answer) == (b'data', FIRST, SECOND)


def test_whatever_the_storage_says_to_exactly_this_is_the_answer(world):
    """C1: though it makes no sense; to others it does not count."""
    answer, other = world.loads.load(OID, SECOND), world.loads.load(OID, FIRST)
    world.arrive((b'data', LATER, None))
    assert end(answer) == (b'data', LATER, None)
    assert not other.settled and world.started[-1] == (OID, FIRST)


def test_an_object_that_did_not_exist_at_one_time_may_have_at_another(world):
    """C1: None is the answer for that time and earlier ones."""
    middle, earlier, later = (world.loads.load(OID, before) for before in (SECOND, FIRST, LATER))
    world.arrive(None)
    assert end(middle) is None and end(earlier) is None and not later.settled
    assert world.started[-1] == (OID, LATER)
    world.arrive(None, POSKeyError(OID))
    assert isinstance(end(later), POSKeyError)


def test_an_error_ends_all_but_those_of_which_it_says_nothing(world):
    """S3: that it is unknown at one time is no answer for another."""
    one, other = world.loads.load(OID, SECOND), world.loads.load(OID, LATER)
    world.arrive(None, POSKeyError(OID))
    assert isinstance(end(one), POSKeyError) and not other.settled
    again = world.loads.load(OID, maxtid)
    world.arrive(None, BROKEN)
    assert end(other) is end(again) is BROKEN


def test_a_load_that_cannot_be_started_is_an_error_of_its_own(world):
    """S3: say, there is no thread for it; the next one is tried."""
    world.error = BROKEN
    assert end(world.loads.load(OID, maxtid)) is BROKEN
    world.error = None
    assert not world.loads.load(OID, maxtid).settled


def test_who_has_waited_too_long_is_taken_out():
    flights = Flights()
    old, new = (Waiting(maxtid, Deferred(), since) for since in (1.0, 5.0))
    assert flights.join(OID, old) and not flights.join(OID, new)
    assert flights.older_than(3.0) == [old]
    assert flights.land(OID).waiting == [new]


# ---- many at once ---------------------------------------------------------------------------------

class Batches:
    """A load for each object of a batch: at once, or when a test says so."""

    def __init__(self):
        self.flights = Flights()
        self.later = {}
        self.at_once = {}

    def load(self, oid, tid):
        if oid in self.at_once:
            answer = self.at_once[oid]
            if isinstance(answer, Exception):
                raise answer
            return answer
        self.later[oid] = Deferred()
        return self.later[oid]

    def batch(self, *oids):
        return load_batch(self.load, self.flights, list(oids), maxtid)


def test_revisions_of_a_batch_are_as_of_one_moment():
    """C1: what came first is corrected when the last has come."""
    some = Batches()
    some.at_once = {OID: (b'one', FIRST, None), THIRD: POSKeyError(THIRD)}
    batch = some.batch(OID, OTHER, THIRD)
    some.flights.changed(SECOND, [OID, p64(99)])
    assert not batch.settled
    some.later[OTHER].succeed((b'two', FIRST, LATER))
    assert end(batch) == [(b'one', FIRST, SECOND), (b'two', FIRST, LATER), None]


@pytest.mark.parametrize('at_once', [True, False])
def test_a_batch_of_which_one_fails_fails_and_nothing_is_left_of_it(at_once):
    """S3, C16: its changes are not kept for ever."""
    some = Batches()
    some.at_once = {OID: BROKEN} if at_once else {}
    batch = some.batch(OID, OTHER)
    if not at_once:
        some.later[OID].fail(BROKEN)
    assert end(batch) is BROKEN
    some.later[OTHER].succeed(None)
    assert repr(some.flights) == '<Flights 0, 0 batches>'
