"""K1: whatever bytes are in the file, opening gives a cache, and what it answers is true.

``ZEO_CLONE_HEAVY=1`` tries 16,000 files instead of 480.
"""
from __future__ import annotations

import copy
import os
import random

import pytest

from tests.cache.memory import Disk
from tests.cache.truth import Truth, audit, p64
from zeo_clone.cache import ClientCache

pytestmark = [pytest.mark.long, pytest.mark.once]

HEAVY = bool(os.environ.get('ZEO_CLONE_HEAVY'))
ROUNDS = 1000 if HEAVY else 30
PATH = 'c.zec'
SIZE = 20_000


def make(clean):
    """A cache file in use for a while, and the truth about it."""
    truth, disk, rng = Truth(), Disk(), random.Random(7)
    cache = ClientCache(PATH, SIZE, runtime=disk)
    for _ in range(300):
        changed = {p64(rng.randrange(60)): rng.randbytes(rng.randrange(300)) for _ in range(3)}
        tid = truth.commit(changed)
        cache.applyCommit(tid, list(changed.items()))
        cache.setLastTid(tid)
    if clean:
        cache.close()
    return bytes(disk.files[PATH]), truth


def flip(data, rng):
    for _ in range(rng.choice((1, 3, 30))):
        at = rng.randrange(len(data))
        data[at] ^= 1 << rng.randrange(8)


def scribble(data, rng):
    at, length = rng.randrange(len(data)), rng.choice((1, 16, 512, 4096))
    data[at:at + length] = rng.randbytes(len(data[at:at + length]))


def erase(data, rng):
    at, length = rng.randrange(len(data)), rng.choice((1, 16, 512, 4096))
    data[at:at + length] = bytes(len(data[at:at + length]))


def displace(data, rng):
    length = rng.choice((16, 40, 512, 4096))
    to, at = (rng.randrange(0, len(data) - length, 8) for _ in range(2))
    data[to:to + length] = data[at:at + length]


def cut(data, rng):
    del data[rng.randrange(len(data)):]


def extend(data, rng):
    data += rng.randbytes(rng.randrange(10_000))


def spoil_the_header(data, rng):
    at = rng.choice((0, 512)) + rng.randrange(150)
    data[at] = rng.randrange(256)


def replace(data, rng):
    data[:] = rng.randbytes(rng.randrange(30_000))


@pytest.mark.parametrize('clean', [True, False])
@pytest.mark.parametrize('spoil', [flip, scribble, erase, displace, cut, extend, spoil_the_header, replace])
def test_a_spoilt_file_never_yields_an_untrue_record(clean, spoil):
    """K1, K4"""
    good, truth = make(clean)
    found = 0
    for number in range(ROUNDS):
        rng = random.Random(number)
        data = bytearray(good)
        spoil(data, rng)
        disk = Disk({PATH: data})
        cache = ClientCache(PATH, rng.choice((SIZE, SIZE, 12_000, 30_000)), runtime=disk)
        found += audit(cache, truth)
        again = copy.deepcopy(truth)  # go on with it: the hand meets what is broken
        for oid in again.changed_since(cache.getLastTid()):
            cache.invalidate(oid, None)
        cache.setLastTid(p64(again.last))
        for _ in range(40):
            changed = {p64(rng.randrange(60)): rng.randbytes(rng.randrange(2000))}
            tid = again.commit(changed)
            cache.applyCommit(tid, list(changed.items()))
            cache.setLastTid(tid)
        audit(cache, again)
        if rng.random() < 0.5:
            cache.close()
        disk = Disk(disk.files)
        audit(ClientCache(PATH, SIZE, runtime=disk), again)
    assert (found > 0) == (spoil not in (cut, replace))
