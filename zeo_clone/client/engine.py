"""The engine: everything of a storage that belongs to one process, built in one place.

A process that was forked must use none of it: connections, I/O thread and cache file are the parent's, and a
lock may be held by a thread that is not here.  It gets the engine's heir instead (N10).
"""
from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from functools import partial

from ZODB.utils import z64

from zeo_clone.cache import CacheLocked, ClientCache
from zeo_clone.client.blobdir import BlobCache, SharedBlobs
from zeo_clone.client.blobs import Blobs, BlobsShared
from zeo_clone.client.caching import Cache
from zeo_clone.client.commit import Committing
from zeo_clone.client.effects import Effects
from zeo_clone.client.later import LaterCalls
from zeo_clone.client.link import Identity
from zeo_clone.client.loading import Loader
from zeo_clone.client.manager import Manager, ManagerOwner
from zeo_clone.client.options import Options
from zeo_clone.client.outcome import Doubtful, Inquiry
from zeo_clone.client.world import Life, World
from zeo_clone.loop.runtime import Runtime
from zeo_clone.steps import take_steps

log = logging.getLogger(__name__)

#: They say that a disk is broken or full, not that a path is wrong.
DISK_ERRORS = frozenset({errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.ENXIO})


class Engine:
    """The parts of the storage `owner`.  ``home[0]`` is false in a process that was forked since.

    `new_cache` makes the cache; it is closed if the rest cannot be made.
    """

    def __init__(self, options: Options, world: World, owner: ManagerOwner,
                 new_cache: Callable[[Options, Runtime], Cache]) -> None:
        runtime = world.runtime
        self._options = options
        self._world = world
        self._owner = owner
        self.cache = cache = new_cache(options, runtime)
        try:
            self.identity = Identity(runtime)
            self.committing = Committing(runtime, self.identity, options.wait_timeout_s)
            self.oids: list[bytes] = []  # which the server has given, and nobody has yet
            self.oids_lock = runtime.lock()  # protects oids
            self.info_lock = runtime.lock()  # protects what the storage knows of the served one
            self.effects = Effects(cache, owner, runtime)
            self.blobs = make_blobs(options, runtime)
            self.life = Life(world, options.io_thread)
            self.home = self.life.loop.home
            self.near = self.home, cache, self.effects  # what a load from the cache needs, taken at once
            self.manager = Manager(options, self.life.loop, self.effects, self.identity, owner)
            self.places = self.manager.places
            self.loader = Loader(self.manager, cache, options.wait_timeout_s, runtime)
            self.later = LaterCalls(self.manager, self.life.loop, options.wait_timeout_s)
        except BaseException:
            cache.close()
            raise

    def inquire(self, doubtful: Doubtful) -> Inquiry:
        """Make an inquiry about a transaction whose end is not known."""
        return Inquiry(doubtful, self.identity, self.manager.link, self._world.runtime,
                       self._options.wait_timeout_s)

    def heir(self) -> Engine:
        """What takes its place in a process that was forked.  What the parent uses is left alone.

        The new cache is empty, but open connections know what the parent's knew: the server will be asked
        what happened since.  A transaction under way, and oids, are the parent's.  No lock of before is
        taken.
        """
        forsake = getattr(self.cache, 'forsake', None)
        if forsake is not None:
            forsake()
        if self.blobs is not None:
            self.blobs.directory.forsake()
        heir = Engine(self._options, self._world, self._owner, self._heirs_cache)
        heir.effects.db, heir.effects.database = self.effects.db, self.effects.database
        return heir

    def _heirs_cache(self, options: Options, runtime: Runtime) -> ClientCache:
        cache = temporary_cache(options, runtime)
        if self.effects.last_tid != z64:
            cache.setLastTid(self.effects.last_tid)
        return cache

    def close(self, storage: object, name: str) -> None:
        """Take every step of the end of `storage`, which was the only one to use it."""
        blobs = [] if self.blobs is None else [self.blobs.close]
        take_steps(f'the end of the storage {name}', self.manager.close, self.later.close,
                   partial(self.life.end, storage), self.cache.close, *blobs)


def make_cache(options: Options, runtime: Runtime) -> Cache:
    """The cache object that was given, or a ClientCache in the file that was named."""
    if options.cache is not None and not isinstance(options.cache, (str, os.PathLike)):
        return options.cache  # type: ignore[no-any-return]
    path = options.cache
    if path is not None and options.cache_may_be_temporary:
        path = runtime.absolute_path(path)
    try:
        return ClientCache(path, options.cache_size, runtime=runtime)
    except CacheLocked as error:
        if not options.cache_may_be_temporary:
            raise
        log.warning('%s; a temporary cache is used instead', error)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        log.warning('the cache file %s cannot be used: %s; a temporary cache is used instead', path, error)
    return temporary_cache(options, runtime)


def temporary_cache(options: Options, runtime: Runtime) -> ClientCache:
    """A cache that nobody else uses and nobody will find later."""
    return ClientCache(None, options.cache_size, runtime=runtime)


def make_blobs(options: Options, runtime: Runtime) -> Blobs | BlobsShared | None:
    """What keeps blobs; None without a blob directory."""
    if options.blob_dir is None:
        return None
    if options.shared_blob_dir:
        return BlobsShared(SharedBlobs(options.blob_dir, runtime))
    return Blobs(BlobCache(options.blob_dir, options.blob_cache_size, options.blob_cache_size_check, runtime),
                 options.blob_progress)
