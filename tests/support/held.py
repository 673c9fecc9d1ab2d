"""A storage of which a server knows nothing but its methods, and of which a test can hold each."""
from __future__ import annotations

import threading

import zope.interface
from ZODB.interfaces import IStorage
from ZODB.MappingStorage import MappingStorage

#: For what hangs only.
PATIENCE_S = 60.0


class Gate:
    """Calls that are held: `wait` until there is one more, `open` to let them, and later ones, go on."""

    def __init__(self):
        self._reached, self._opened = threading.Semaphore(0), threading.Event()

    def wait(self):
        assert self._reached.acquire(timeout=PATIENCE_S), 'the storage was not asked'

    def open(self):
        self._opened.set()

    def __call__(self):
        self._reached.release()
        assert self._opened.wait(PATIENCE_S), 'the gate was never opened'


@zope.interface.implementer(IStorage)
class Held:
    """Around `inner`, by default in memory.  `calls`: its methods, in order; `db`: what was registered."""

    def __init__(self, inner=None, **attributes):
        self.inner = MappingStorage() if inner is None else inner
        self._before, self._after = {}, {}
        self.calls = []
        self.db = None
        self.__dict__.update(attributes)

    def hold(self, name, after=False):
        """Hold calls of the method `name`, or its results."""
        return (self._after if after else self._before).setdefault(name, Gate())

    def free(self, name):
        """Hold no call of it any more."""
        for gates in self._before, self._after:
            gate = gates.pop(name, None)
            if gate is not None:
                gate.open()

    def free_all(self):
        for name in [*self._before, *self._after]:
            self.free(name)

    def registerDB(self, db):
        self.db = db
        self.inner.registerDB(db)

    def _call(self, name, function, *args, **keywords):
        self.calls.append(name)
        if name in self._before:
            self._before[name]()
        try:
            return function(*args, **keywords)
        finally:
            if name in self._after:
                self._after[name]()

    def __len__(self):
        return self._call('__len__', self.inner.__len__)

    def __getattr__(self, name):
        found = getattr(self.inner, name)
        if name.startswith('_') or not callable(found):
            return found
        return lambda *args, **keywords: self._call(name, found, *args, **keywords)
