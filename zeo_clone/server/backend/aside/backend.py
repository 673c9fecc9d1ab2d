"""All that is asked of a storage of which nobody knows how quick it is: a thread of its own asks it (D1).

In and out: as in `backend.Backend`; most answers are `Deferred`.  What would be asked of it in the loop is
asked in one thread, in the order in which it came, so that nothing happens at once that could not happen
before; loads have threads of their own beside the commits if the storage says that it is `thread_safe`.
Length, size, name and so on are asked every now and then, and remembered.  Loop thread only, apart from what
is handed to threads.
"""
from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from zeo_clone.loop.core import Loop
from zeo_clone.server.backend.aside.commit import AsideCommit, Chronicler, Parts
from zeo_clone.server.backend.aside.loads import Loads
from zeo_clone.server.backend.backend import Backend
from zeo_clone.server.backend.flights import Flights, Revision, load_batch
from zeo_clone.server.backend.guard import Guard
from zeo_clone.server.backend.workers import LONG_THREADS, Workers
from zeo_clone.server.deferred import Deferred
from zeo_clone.server.stats import Stats
from zeo_clone.server.vocabulary import Meta
from zeo_clone.steps import take_steps

log = logging.getLogger(__name__)

#: Threads for loads of a storage that is thread-safe.
READERS = 4
#: Length, size and so on are asked again after so many seconds; after a commit, after so many at least ...
MEASURE_S, SOON_S = 20.0, 1.0
#: ... and after so many times as long as it took.
REST = 50


class AsideBackend(Backend):
    """Of `storage`, which messages call `name`.  Raises ValueError if it cannot be served."""

    #: Are several threads always safe?  Else the storage says it.
    threads_are_safe = False

    def __init__(self, loop: Loop, name: str, storage: Any, guard: Guard, stats: Stats) -> None:
        super().__init__(loop, name, storage, guard, stats)
        self._clock = loop.runtime.monotonic
        self._committer = Workers(loop, f'zeo-server-storage-{name}', 1)
        self._readers = self._committer
        if self.threads_are_safe or getattr(storage, 'thread_safe', False) is True:
            self._readers = Workers(loop, f'zeo-server-reads-{name}', READERS)
        self._long = self.workers = Workers(loop, f'zeo-server-long-{name}', LONG_THREADS)
        self._flights = Flights()
        self._loads = Loads(self._flights, self._start_load, self._clock)
        self.reader = self
        self._parts = Parts(self.failures, self._committer)
        self.commit_class = partial(AsideCommit, self._parts)
        self._facts = self._ask_facts()
        self._measured = self._took = 0.0  # when that was, and how long it took, in seconds
        self._measuring = self._closed = False

    # ---- at start and at the end --------------------------------------------------------------------

    def listen(self, chronicler: Chronicler) -> None:
        """From now on `chronicler` is told of commits."""
        self._parts.chronicler = chronicler
        self._loop.call_later(MEASURE_S, self._tick)

    def close(self) -> None:
        """At the end."""
        self._closed = True
        take_steps(f'the end of storage {self._name!r}', self._committer.close, self._readers.close,
                   self._long.close)

    # ---- what it is: as it was asked last -------------------------------------------------------------

    def _ask_facts(self) -> tuple[dict[str, Any], dict[str, Any], bool]:
        return super().info(), super().describe(), super().is_read_only

    def info(self) -> dict[str, Any]:
        """Length and size, as they were asked last."""
        return self._facts[0]

    def describe(self) -> dict[str, Any]:
        """Names and abilities, as they were asked last."""
        return self._facts[1]

    @property
    def is_read_only(self) -> bool:
        """Takes it no commits?"""
        return self._facts[2]

    def _tick(self) -> None:
        if not self._closed:
            self._loop.call_later(MEASURE_S, self._tick)
            self.look()

    def look(self) -> None:
        """It may have changed: ask it again, in its thread, unless that was done just now."""
        pause_s = max(SOON_S, REST * self._took)
        if not self._measuring and not self._closed and self._clock() >= self._measured + pause_s:
            self.ask_now()

    def ask_now(self) -> Deferred:
        """Ask it now; settled when that is done."""
        done = Deferred()
        self._measuring, self._measured = True, self._clock()
        self.ask(self._ask_facts).when_settled(partial(self._looked, done))
        return done

    def _looked(self, done: Deferred, facts: Any, error: BaseException | None) -> None:
        now = self._clock()
        self._measuring, self._measured, self._took = False, now, now - self._measured
        if error is None:
            self._facts = facts
        else:
            log.debug('storage %r cannot be asked how large it is: %s', self._name, error)
        done.succeed(None)

    # ---- reading ----------------------------------------------------------------------------------

    def ask(self, function: Callable[[], Any]) -> Deferred:
        """What `function`, which asks the storage, returns."""
        return self._readers.run(object(), self.for_client(function))

    def loadBefore(self, oid: bytes, tid: bytes) -> Revision | Deferred:
        """As a storage's, or later."""
        return self._loads.load(oid, tid)

    def _start_load(self, oid: bytes, tid: bytes) -> None:
        self.ask(partial(self._storage.loadBefore, oid, tid)).when_settled(
            partial(self._loads.arrived, oid, tid))

    def load_batch(self, oids: list[bytes], tid: bytes) -> Deferred:
        """The revisions of all `oids` before `tid`, None where there is none, as of one moment."""
        return load_batch(self.loadBefore, self._flights, oids, tid)

    def load_serial(self, oid: bytes, serial: bytes) -> Deferred:
        """The data of a revision."""
        return self.ask(partial(self._storage.loadSerial, oid, serial))

    def get_tid(self, oid: bytes) -> Deferred:
        """The serial of an object."""
        return self.ask(partial(self.abilities.serial_of, oid))

    def method(self, name: str) -> Any:
        """A method that not every storage has.  Raises Unsupported."""
        method = super().method(name)
        if name == 'record_iternext':
            return lambda start=None: self.ask(partial(method, start))
        return method

    def changed(self, tid: bytes, oids: list[bytes]) -> None:
        """Transaction `tid` wrote `oids`, and this is being told."""
        self._flights.changed(tid, oids)

    # ---- writing ----------------------------------------------------------------------------------

    def new_oids(self, count: int) -> Any:
        """At most `count` oids that nobody has.  Later; fails with StorageError when there are none left."""
        return self._readers.run(object(), partial(super().new_oids, count))

    def new_commit_of(self, client: Any, meta: Meta, last_tid: bytes, early_tid: bool,
                      collect_conflicts: bool) -> AsideCommit:
        """As `new_commit`, of a client that is told by the reply."""
        commit: Any = self.new_commit(meta, last_tid, early_tid, collect_conflicts)
        commit.client = client
        return commit  # type: ignore[no-any-return]
