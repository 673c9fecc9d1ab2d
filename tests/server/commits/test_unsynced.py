"""D2, D3: finished commits on their way to the disk."""
from __future__ import annotations

import pytest
from ZODB.POSException import StorageError
from ZODB.utils import p64

from zeo_clone.Exceptions import CommitOutcomeUnknown
from zeo_clone.server.commits.unsynced import Finished, Unsynced
from zeo_clone.server.deferred import Deferred


class Syncs:
    """A disk that a test moves."""

    def __init__(self, quick):
        self.quick = quick
        self.requests = 0
        self.last = p64(0)
        self.error = None

    def sync_at_once(self):
        if self.error is not None:
            raise self.error
        return self.last

    def request(self):
        self.requests += 1


class World:
    """What is told, in order."""

    def __init__(self, quick=False):
        self.syncs = Syncs(quick)
        self.told = []
        self.errors = []
        self.hidden = []
        self.unsynced = Unsynced(self.syncs, self.hidden.append, self.told.append, self.errors.append)

    def finish(self, number):
        finished = Finished(p64(number), [p64(1)], f'client {number}', Deferred())
        self.syncs.last = finished.tid
        self.unsynced.begin(finished.tid)
        self.unsynced.add(finished)
        return finished


def test_commits_are_told_in_order_when_they_are_durable():
    """D2: those of one sync at once; not before."""
    world = World()
    first, second, third = (world.finish(number) for number in (1, 2, 3))
    assert world.syncs.requests == 3
    assert world.told == []
    world.unsynced.synced(p64(2), None)
    assert world.told == [[first, second]]
    world.unsynced.synced(p64(2), None)
    assert world.told == [[first, second]]
    world.unsynced.synced(p64(3), None)
    assert world.told == [[first, second], [third]]
    assert len(world.unsynced) == 0


def test_quick_sync_is_waited_for():
    """D2: nobody gains by another thread then."""
    world = World(quick=True)
    finished = world.finish(1)
    assert world.told == [[finished]]
    assert world.syncs.requests == 0


def test_nobody_overtakes():
    """D2: a commit that could be synced at once comes after those that are on their way."""
    world = World()
    first = world.finish(1)
    world.syncs.quick = True
    second = world.finish(2)
    assert world.told == []
    world.unsynced.synced(p64(2), None)
    assert world.told == [[first, second]]


@pytest.mark.parametrize('quick', [True, False])
def test_error_is_for_all_that_wait(quick):
    """D3, C24: it is not known what is on the disk; nobody is told of any of them."""
    world = World(quick)
    world.syncs.error = OSError(28, 'No space left on device')
    waiting = [world.finish(number) for number in range(1, 2 if quick else 4)]
    if not quick:
        world.unsynced.synced(None, world.syncs.error)
    assert world.told == []
    assert world.errors == [world.syncs.error]
    for finished in waiting:
        assert isinstance(finished.reply.error, CommitOutcomeUnknown)
        assert 'No space left on device' in str(finished.reply.error)
        assert 'Look at the data before you repeat it' in str(finished.reply.error)


def test_who_asks_for_an_outcome_waits_until_it_is_known():
    """C11, D2: and no longer, however many commits come after it."""
    world = World()
    assert world.unsynced.when_on_disk().settled
    world.finish(1)
    world.finish(2)
    asked = world.unsynced.when_on_disk()
    world.finish(3)
    later = world.unsynced.when_on_disk()
    world.unsynced.synced(p64(1), None)
    assert not asked.settled
    world.unsynced.synced(p64(2), None)
    assert asked.settled and not later.settled
    world.unsynced.synced(p64(3), None)
    assert later.settled


def test_what_is_not_durable_is_hidden():
    """D2: from before the storage finishes it."""
    world = World()
    world.unsynced.begin(p64(1))
    assert world.hidden[-1] == p64(1)
    world.unsynced.cancel()
    assert world.hidden[-1] is None
    world.finish(2)
    world.finish(3)
    assert world.hidden[-1] == p64(2)
    world.unsynced.synced(p64(2), None)
    assert world.hidden[-1] == p64(3)
    world.unsynced.synced(p64(3), None)
    assert world.hidden[-1] is None


def test_what_could_not_be_synced_stays_hidden():
    """D3: for ever."""
    world = World()
    world.finish(2)
    world.unsynced.synced(None, OSError(5, 'Input/output error'))
    world.unsynced.begin(p64(3))
    world.unsynced.cancel()
    assert world.hidden == [p64(2)]


def test_nothing_is_told_after_an_error_whatever_later_syncs_say():
    """D3, C3: of what could not be synced nobody was told, so nobody may see it, nor what came after it."""
    world = World()
    world.finish(1)
    world.unsynced.synced(None, OSError(5, 'Input/output error'))
    with pytest.raises(StorageError, match='takes no more transactions.*Input/output error.*restart'):
        world.unsynced.check()
    late = world.finish(2)  # which had voted before
    world.unsynced.synced(p64(2), None)
    assert isinstance(late.reply.error, CommitOutcomeUnknown)
    assert world.told == []
    assert world.hidden == [p64(1)]


def test_a_thread_that_cannot_be_started_is_an_error_of_the_sync():
    """C24: not one that looks as if nothing had been committed."""
    world = World()

    def fail():
        raise RuntimeError("can't start new thread")

    world.syncs.request = fail
    finished = world.finish(1)
    assert isinstance(finished.reply.error, CommitOutcomeUnknown)
