"""The cache against the truth, through whatever a client, its user and the machine may do.

``ZEO_CLONE_HEAVY=1`` takes 50,000 steps instead of 2,000.
"""
from __future__ import annotations

import os
import shutil
import tempfile

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.cache.truth import Truth, audit, p64
from tests.support import inside
from zeo_clone.cache import ClientCache
from zeo_clone.cache import cache as cache_module

pytestmark = [pytest.mark.long, pytest.mark.once]

HEAVY = bool(os.environ.get('ZEO_CLONE_HEAVY'))
STEPS = 50

numbers = st.one_of(st.integers(0, 30), st.sampled_from([255, 256, 1 << 40]))
oids = numbers.map(p64)
contents = st.tuples(st.sampled_from([0, 1, 8, 100, 300, 2000, 9000]), st.integers(0, 255))
data = contents.map(lambda pair: bytes([pair[1]]) * pair[0])
changes = st.dictionaries(oids, data, min_size=1, max_size=6)
sizes = st.sampled_from([0, 1500, 4000, 12_000, 12_001, 60_000])


class CacheMachine(RuleBasedStateMachine):
    """A client with one cache; ``heard`` counts the transactions whose invalidations it processed."""

    late_size = 0  # own commits leave nothing for later

    def __init__(self):
        super().__init__()
        self.late_size_before, cache_module.LATE_SIZE = cache_module.LATE_SIZE, self.late_size
        self.directory = tempfile.mkdtemp(prefix='zeo-clone-test-')
        self.path = self.make_path()
        self.truth = Truth()
        self.heard = 0
        self.cache = None

    def make_path(self):
        return os.path.join(self.directory, 'c.zec')

    def teardown(self):
        cache_module.LATE_SIZE = self.late_size_before
        if self.cache is not None:
            self.cache.close()
        shutil.rmtree(self.directory)

    @initialize(size=sizes)
    def start(self, size):
        self.open(size)

    def open(self, size):
        self.cache = ClientCache(self.path, size)
        assert self.cache.getLastTid() <= p64(self.truth.last)
        audit(self.cache, self.truth)
        self.verify()

    def verify(self):
        for oid in self.truth.changed_since(self.cache.getLastTid()):
            self.cache.invalidate(oid, None)
        self.cache.setLastTid(p64(self.truth.last))
        self.heard = len(self.truth.transactions)

    def hear(self, all_but=0):
        transactions = self.truth.transactions
        while self.heard < len(transactions) - all_but:
            tid, changed = transactions[self.heard]
            self.heard += 1
            self.cache.invalidateTransaction(tid, changed)
            self.cache.setLastTid(tid)

    @rule(changed=changes, step=st.integers(1, 3))
    def others_commit(self, changed, step):
        self.truth.commit(changed, step)

    @rule(changed=changes, uncached=st.booleans())
    def own_commit(self, changed, uncached):
        self.hear()
        tid = self.truth.commit(changed)
        self.heard += 1
        self.cache.applyCommit(tid, [(oid, None if uncached else new) for oid, new in changed.items()])
        self.cache.setLastTid(tid)

    @rule()
    def invalidations_arrive(self):
        self.hear()

    @rule(oid=oids, early=st.booleans())
    def load(self, oid, early):
        """A reply may show one transaction whose invalidation comes after it (C19)."""
        found = self.cache.load(oid)
        if found is not None:
            complaint = self.truth.complaint(oid, *found, None, self.cache.getLastTid())
            assert complaint is None, complaint
            return
        self.hear(all_but=1 if early else 0)
        current = self.truth.current(oid)
        if current is not None:
            self.cache.store(oid, current[1], None, current[0])
            assert self.cache.load(oid) in (None, current)

    @precondition(lambda self: self.truth.last)
    @rule(oid=oids, ago=st.integers(0, 30), early=st.booleans())
    def load_before(self, oid, ago, early):
        tid = p64(max(1, self.truth.last + 1 - ago))
        found = self.cache.loadBefore(oid, tid)
        if found is None:
            self.hear(all_but=1 if early else 0)
            found = self.truth.before(oid, tid)
            if found is not None:
                self.cache.store(oid, found[1], found[2], found[0])
            return
        assert found[1] < tid <= (found[2] or tid)
        complaint = self.truth.complaint(oid, *found, self.cache.getLastTid())
        assert complaint is None, complaint

    @rule(oid=oids)
    def drop(self, oid):
        self.cache.invalidate(oid, None)
        assert self.cache.load(oid) is None

    @rule(many=st.integers(1, 200))
    def fill_up(self, many):
        self.hear()
        changed = {p64(1000 + number): b'fill' * 20 for number in range(many)}
        tid = self.truth.commit(changed)
        self.heard += 1
        self.cache.invalidateTransaction(tid, list(changed))
        for oid, new in changed.items():
            self.cache.store(oid, tid, None, new)
        self.cache.setLastTid(tid)

    @rule()
    def forget(self):
        self.cache.clear()
        assert len(self.cache) == 0
        self.verify()

    @rule(size=sizes)
    def close_and_open(self, size):
        last_tid, known = self.cache.getLastTid(), set(self.cache.contents())
        self.cache.close()
        cache = ClientCache(self.path, size)
        assert cache.getLastTid() == last_tid
        assert set(cache.contents()) <= known
        cache.close()
        self.open(size)

    @rule(size=sizes)
    def kill_and_open(self, size):
        last_tid = self.cache.getLastTid()
        inside.book(self.cache).file.close()
        cache = ClientCache(self.path, size)
        assert cache.getLastTid() == last_tid
        inside.book(cache).file.close()
        self.open(size)

    @invariant()
    def the_numbers_are_right(self):
        if self.cache is not None and not self.cache.late:  # or to look would write what is late
            stats = self.cache.stats()
            assert stats['used'] <= stats['capacity'] <= max(stats['size'], 0)
            assert (stats['used'] == 0) == (len(self.cache) == 0)
            assert audit(self.cache, self.truth) == len(self.cache)


class TemporaryCacheMachine(CacheMachine):
    """The same without a file that lasts: ends of revisions are kept in memory."""

    close_and_open = kill_and_open = None

    def make_path(self):
        return None

    @rule(size=sizes)
    def begin_anew(self, size):
        self.cache.close()
        self.open(size)

    @invariant()
    def ends_go_with_their_records(self):
        if self.cache is not None:
            ring, ends = inside.book(self.cache).ring, inside.book(self.cache).file.ends
            assert not any(ring.write <= at < ring.front for at in ends)  # the free space at the hand


class LateCacheMachine(CacheMachine):
    """Every own commit leaves work for later, before which anything may come."""

    late_size = cache_module.LATE_SIZE

    @rule()
    def write_late(self):
        self.cache.write_late()
        assert not self.cache.late


class LateTemporaryCacheMachine(LateCacheMachine, TemporaryCacheMachine):
    """Both."""


TestCacheMachine, TestTemporaryCacheMachine = CacheMachine.TestCase, TemporaryCacheMachine.TestCase
TestLateCacheMachine = LateCacheMachine.TestCase
TestLateTemporaryCacheMachine = LateTemporaryCacheMachine.TestCase
TestCacheMachine.settings = settings(
    max_examples=1500 if HEAVY else 70, stateful_step_count=STEPS, deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
for case in TestTemporaryCacheMachine, TestLateCacheMachine, TestLateTemporaryCacheMachine:
    case.settings = settings(TestCacheMachine.settings, max_examples=1500 if HEAVY else 40)
