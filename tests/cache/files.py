"""Caches in files, for tests: filled, killed, opened again."""
from __future__ import annotations

from tests.cache.memory import Disk
from tests.cache.truth import p64
from tests.support import inside
from zeo_clone.cache import ClientCache

SIZE = 50_000
PATH = 'c.zec'


def filled(path, size=SIZE, objects=20, **keywords):
    """A cache with objects 0, 1, ..., each current from tid number + 1."""
    cache = ClientCache(path, size, **keywords)
    for number in range(objects):
        cache.store(p64(number), p64(number + 1), None, b'%d' % number * 100)
    cache.setLastTid(p64(objects))
    return cache


def kill(cache):
    """The process of `cache` ends here."""
    inside.book(cache).file.close()
    cache._closed = True


def reopened(disk, boot=None, size=SIZE):
    """The cache as another process finds it on a copy of `disk`."""
    return ClientCache(PATH, size, runtime=Disk(disk.files, boot or disk.boot))
