"""C10: crash images.  Sessions of a cache run on a disk that remembers every write; the file as a crash
might have left it, at any write, torn, or with unsynced writes lost, is opened and every entry held
against the truth.

``ZEO_CLONE_HEAVY=1`` looks at 50,000 images instead of some 2,000.
"""
from __future__ import annotations

import os
import random

import pytest

from tests.cache.memory import Disk, crashed_image, killed_image
from tests.cache.truth import Truth, audit, p64
from tests.support import inside
from zeo_clone.cache import ClientCache, recovery
from zeo_clone.cache import cache as cache_module
from zeo_clone.cache.format import block_size

HEAVY = bool(os.environ.get('ZEO_CLONE_HEAVY'))
#: Seeds that are tried in every day's run, too; the others take long.
QUICK = 4
SLOW = [pytest.mark.long, pytest.mark.once]
PATH = 'c.zec'
OIDS = [p64(n) for n in range(40)] + [p64(1 << 40)]
SIZES = (6000, 12000, 40000)


class FullDisk:
    """Once in a while nothing, or only a part, can be written."""

    def __init__(self, rng):
        self.rng = rng

    def __call__(self, at, length):
        if self.rng.random() > 0.03:
            return None
        return self.rng.choice((0, 0, min(7, length - 1), length // 2))


class Session:
    """A client with a cache on `disk`, and its server."""

    def __init__(self, disk, truth, size, rng):
        self.disk, self.truth, self.rng = disk, truth, rng
        self.cache = ClientCache(PATH, size, runtime=disk)
        self.heard = 0
        self.failed = False
        self.finished = []  # (number of events in the log, last tid) after each setLastTid
        self.verify()

    def verify(self):
        """As after a connect: hear of what changed since the cache's last tid."""
        cache, truth = self.cache, self.truth
        self.heard = len(truth.transactions)
        if not truth.last:
            return
        if cache.getLastTid() == p64(0):
            cache.clear()
        for oid in truth.changed_since(cache.getLastTid()):
            cache.invalidate(oid, None)
        self.moved(p64(truth.last))

    def moved(self, tid):
        self.cache.setLastTid(tid)
        file = inside.book(self.cache).file
        self.failed = self.failed or file.frozen
        if not self.failed and file.header.last_tid == tid:  # else it stands still, after an error
            self.finished.append((len(self.disk.log), tid))

    def hear(self, all_but=0):
        """Process invalidations, all but the last so many."""
        transactions = self.truth.transactions
        while self.heard < len(transactions) - all_but:
            tid, oids = transactions[self.heard]
            self.heard += 1
            self.cache.invalidateTransaction(tid, oids)
            self.moved(tid)

    def data(self):
        return self.rng.randbytes(self.rng.choice((0, 10, 200, 200, 900, 3000)))

    def changes(self):
        return {oid: self.data() for oid in self.rng.sample(OIDS, self.rng.choice((1, 1, 2, 5)))}

    def load(self):
        """A current load; the reply may show one transaction whose invalidation has not come (C19)."""
        oid = self.rng.choice(OIDS)
        if self.cache.load(oid) is None:
            self.hear(all_but=self.rng.choice((0, 1)))
            current = self.truth.current(oid)
            if current and self.cache.load(oid) is None:
                self.cache.store(oid, current[1], None, current[0])

    def load_before(self):
        oid, tid = self.rng.choice(OIDS), p64(self.rng.randrange(1, self.truth.last + 2))
        if self.cache.loadBefore(oid, tid) is None:
            self.hear(all_but=self.rng.choice((0, 1)))
            found = self.truth.before(oid, tid)
            if found:
                self.cache.store(oid, found[1], found[2], found[0])

    def own_commit(self):
        self.hear()
        changes = self.changes()
        tid = self.truth.commit(changes)
        self.heard += 1
        records = [(oid, data if self.rng.random() < 0.8 else None) for oid, data in changes.items()]
        self.cache.applyCommit(tid, records)
        self.moved(tid)

    def step(self):
        """One thing that a client does; if the disk is full, the link is dropped and a new one verifies."""
        try:
            self.act()
        except OSError:
            full, self.disk.fail = self.disk.fail, None
            self.failed = True
            if self.rng.random() < 0.3:
                self.finished.append((len(self.disk.log), p64(0)))
                self.cache.clear()
            self.verify()
            self.disk.fail = full

    def act(self):
        roll = self.rng.random()
        if roll < 0.5:
            self.load()
        elif roll < 0.6:
            self.load_before()
        elif roll < 0.8:
            self.truth.commit(self.changes(), self.rng.choice((1, 3)))
            if roll < 0.7:
                self.hear()
        elif roll < 0.97:
            self.own_commit()
        elif roll < 0.98:
            self.cache.invalidate(self.rng.choice(OIDS), None)
        elif roll < 0.985:
            self.disk.now += 100
        elif roll < 0.99:
            self.finished.append((len(self.disk.log), p64(0)))
            self.cache.clear()
            self.verify()
        else:
            self.cache.sync()


def check_killed(session, base, log, truth, size, rng, count):
    torn = rng.choice((None, 1, 7, 512, rng.randrange(4000)))
    image = killed_image(base, log, count, torn)
    disk = Disk({PATH: image}, boot=session.disk.boot)
    cache = ClientCache(PATH, size, runtime=disk)
    entries = audit(cache, truth)
    done = [tid for events, tid in session.finished if events <= count]
    assert not done or cache.getLastTid() >= done[-1], 'the process died, but the last tid was forgotten'
    cache.close()
    return entries, image


def check_crashed(session, base, log, truth, size, rng, count):
    image = crashed_image(base, log, count, rng)
    disk = Disk({PATH: image}, boot=rng.randbytes(16))
    cache = ClientCache(PATH, size, runtime=disk)
    entries = audit(cache, truth)
    cache.close()
    return entries, image


def check_invariant(cache):
    """(1) of `format`: the valid images in the file are those in the index, not more."""
    book = inside.book(cache)
    if book.file.frozen:
        return
    book.file.flush()
    known = {(oid, at) for oid, at in book.current.items()}
    known |= {(oid, at) for oid in book.older.places for at in book.older.get(oid)}
    images = {(head.oid, at) for at, _, head in recovery.scan(book.file) if not head.dead}
    assert images == known
    assert book.ring.used == sum(block_size(book.file.head_at(at).length) for _, at in known)
    assert book.file.base <= book.ring.write <= book.ring.front <= book.file.end


def live(session, rng):
    """Some of a client's life: a full disk now and then, at its end perhaps a proper end."""
    if rng.random() < 0.3:
        session.disk.fail = FullDisk(rng)
    for _ in range(rng.randrange(10, 120)):
        session.step()
    session.disk.fail = None
    audit(session.cache, session.truth)
    check_invariant(session.cache)
    if rng.random() < 0.4:
        session.cache.close()


def look(session, base, size, rng, check):
    """Open one image of what `session` wrote to the file `base`; number of entries, and the image."""
    log = session.disk.log
    count = rng.randrange(len(log) + 1)
    try:
        return check(session, base, log, session.truth, size, rng, count)
    except AssertionError as error:
        raise AssertionError(f'{check.__name__}, after {count} events') from error


def run(seed, images):
    """Several lives of one cache file, `images` looks in all; the number of entries found."""
    rng = random.Random(seed)
    truth, image, found = Truth(), None, 0
    boot = rng.randbytes(16)
    for _ in range(4):
        size = rng.choice(SIZES)
        session = Session(Disk({} if image is None else {PATH: image}, boot), truth, size, rng)
        check_invariant(session.cache)
        live(session, rng)
        looks = [(*look(session, image or b'', size, rng, check), check)
                 for _ in range(images // 8) for check in (check_killed, check_crashed)]
        found += sum(entries for entries, _, _ in looks)
        _, image, check = rng.choice(looks)
        if check is check_crashed:
            boot = rng.randbytes(16)
    return found


@pytest.mark.parametrize('seed', [seed if seed < QUICK else pytest.param(seed, marks=SLOW)
                                  for seed in range(500 if HEAVY else 60)])
def test_no_crash_image_shows_an_untrue_entry(seed, monkeypatch):
    """C10: killed at any write, torn, the disk full, or the system died; several lives of one file.  In half
    of them own commits leave work for later."""
    if seed % 2:
        monkeypatch.setattr(cache_module, 'LATE_SIZE', 0)
    assert run(seed, images=104) > 0
