"""The engine: everything of a storage that belongs to one process, built in one place.

A process that was forked must use none of it: connections, I/O thread and cache file are the parent's, and a
lock may be held by a thread that is not here.  It gets the engine's heir instead (N10).
"""
from __future__ import annotations

from typing import Any

from ZODB.utils import z64

from zeo_clone.client import lifetimes
from zeo_clone.client.commit import Committing
from zeo_clone.client.effects import Effects
from zeo_clone.client.identity import Identity
from zeo_clone.client.loading import Loader
from zeo_clone.client.manager import Manager, ManagerOwner
from zeo_clone.client.options import Options
from zeo_clone.loop.runtime import Runtime


class Engine:
    """The parts of the storage `owner`.  ``home[0]`` is false in a process that was forked since."""

    def __init__(self, options: Options, runtime: Runtime, owner: ManagerOwner, cache: Any) -> None:
        self._options = options
        self._runtime = runtime
        self._owner = owner
        self.cache = cache
        self.identity = Identity(runtime)
        self.committing = Committing(runtime, self.identity)
        self.oids: list[bytes] = []  # which the server has given, and nobody has yet
        self.oids_lock = runtime.lock()  # protects oids
        self.info_lock = runtime.lock()  # protects what the storage knows of the served one
        self.effects = Effects(cache, owner, runtime)
        self.blobs = options.make_blobs(runtime)
        self.life = lifetimes.Life(options.io_thread)
        self.home = self.life.loop.home
        self.near = self.home, cache, self.effects  # what a load from the cache needs, taken at once
        self.manager = Manager(options, self.life.loop, self.effects, self.identity, owner)
        self.loader = Loader(self.manager, cache, options.wait_timeout_s, runtime)

    def heir(self) -> Engine:
        """In a process that was forked: what takes its place.  What the parent uses is left alone.

        The new cache is empty, but open connections know what the parent's knew: the server will be asked
        what happened since.  A transaction under way, and oids, are the parent's.  No lock of before is
        taken.
        """
        tid, database = self.effects.last_tid, self.effects.database
        forsake = getattr(self.cache, 'forsake', None)
        if forsake is not None:
            forsake()
        cache = self._options.make_temporary_cache()
        if tid != z64:
            cache.setLastTid(tid)
        if self.blobs is not None:
            self.blobs.directory.forsake()
        heir = Engine(self._options, self._runtime, self._owner, cache)
        heir.effects.db, heir.effects.database = self.effects.db, database
        return heir
