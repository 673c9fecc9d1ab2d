"""Which objects are loaded most just now, and of what classes they are.

In: the oid of each load, in the loop's thread, where it costs no more than an append.  Out: a short list for
the status, in any thread.  The classes are read by a worker thread, after somebody has asked, and remembered;
so the status never waits for a record.
"""
from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from ZODB.POSException import POSKeyError
from ZODB.utils import maxtid

from zeo_clone.server.backend.family import Refused
from zeo_clone.server.backend.records import class_of

#: The last so many loads count.
LOADS = 4096
#: So many objects are named ...
OBJECTS = 10
#: ... anew after so many seconds, however often somebody asks.
FRESH_S = 1.0
#: Classes of so many objects are remembered; at more, all are forgotten.
MAX_CLASSES = 10_000


class HotObjects:
    """The busiest objects of one storage; `read` is its ``loadBefore`` for worker threads, `clock` tells
    monotonic seconds."""

    def __init__(self, read: Callable[[bytes, bytes], Any], clock: Callable[[], float]) -> None:
        #: Oids of the last loads: append, or extend.
        self.recent: deque[bytes] = deque(maxlen=LOADS)
        self._read = read
        self._clock = clock
        self._classes: dict[bytes, str] = {}
        self._top: tuple[float, list[tuple[bytes, int]]] = -FRESH_S, []  # when, and what; replaced as a whole

    # ---- any thread -------------------------------------------------------------------------------

    def as_dict(self) -> dict[str, Any]:
        """``loads``: of so many; ``objects``: ``[oid, loads, class]`` of those that are loaded most; class
        None: not known, or not yet."""
        return {'loads': len(self.recent),
                'objects': [[oid.hex(), count, self._classes.get(oid)] for oid, count in self._most_loaded()]}

    def _most_loaded(self) -> list[tuple[bytes, int]]:
        now = self._clock()
        at, top = self._top
        if now - at >= FRESH_S:
            top = Counter(self.recent.copy()).most_common(OBJECTS)
            self._top = now, top
        return top

    @property
    def strangers(self) -> list[bytes]:
        """Those of the last list whose classes are not known."""
        return [oid for oid, _ in self._top[1] if oid not in self._classes]

    # ---- worker thread ----------------------------------------------------------------------------

    def look_up(self, oids: list[bytes]) -> None:
        """Read the classes of `oids`."""
        if len(self._classes) + len(oids) > MAX_CLASSES:
            self._classes = {}
        for oid in oids:
            try:
                revision = self._read(oid, maxtid)
            except POSKeyError:
                revision = None
            self._classes[oid] = 'nothing' if revision is None else class_name(revision[0])


def class_name(record: bytes) -> str:
    """The dotted name of a record's class, as far as it can be read."""
    try:
        return '.'.join(class_of(record))
    except Refused:
        return 'unknown'
