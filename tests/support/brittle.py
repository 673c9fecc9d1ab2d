"""Things that fail at their N-th use: a storage, iterators, files of uploads.

    script = Script()
    storage = brittle(FileStorage, script)(path, ...)
    script.arm(3, OSError(EIO, '...'))        # the third use from now on raises; later ones work again

Every fallible thing counts on one script, so that N = 1, 2, 3, ... covers each step of a scenario.
"""
from __future__ import annotations

#: What servers call of a storage.
STORAGE_METHODS = (
    'tpc_begin', 'store', 'storeBlob', 'restore', 'deleteObject', 'checkCurrentSerialInTransaction',
    'tpc_vote', 'tpc_finish', 'tpc_abort', 'tpc_transaction', 'lastTransaction', 'getSize', '__len__',
    'loadBefore', 'loadBlob', 'iterator', 'temporaryDirectory', 'new_oid', 'isReadOnly', 'getTid')


class Script:
    """Counts uses; raises at one of them, before or after it has done its work."""

    def __init__(self):
        self.used = []  # names, since `arm`
        self._at = None
        self._error = None
        self._after = False

    def arm(self, number, error, after=False):
        """Let use `number`, counted from 1, raise `error`: `after` it has been done, or instead."""
        self.used = []
        self._at, self._error, self._after = number, error, after

    def disarm(self):
        """Everything works.  Whether it had raised."""
        raised = self._at is not None and len(self.used) >= self._at
        self._at = None
        return raised

    def use(self, name, function, *args, **keywords):
        """``function(*args)``, as one use."""
        self.used.append(name)
        now = len(self.used) == self._at
        if now and not self._after:
            raise self._error
        result = function(*args, **keywords)
        if now:
            raise self._error
        return result


def brittle(storage_class, script):
    """A subclass whose methods are uses of `script`; what it calls of itself counts too."""
    def counted(name):
        real = getattr(storage_class, name)

        def method(self, *args, **keywords):
            return script.use(name, real, self, *args, **keywords)
        return method

    def iterator(self, *args):
        return BrittleIterator(script, script.use('iterator', storage_class.iterator, self, *args))

    names = [name for name in STORAGE_METHODS if hasattr(storage_class, name)]
    return type(f'Brittle{storage_class.__name__}', (storage_class,),
                {**{name: counted(name) for name in names}, 'iterator': iterator})


class BrittleIterator:
    """An iterator over transactions whose steps and whose end are uses."""

    def __init__(self, script, iterator):
        self._script = script
        self._iterator = iterator

    def __iter__(self):
        return self

    def __next__(self):
        return self._script.use('next', next, self._iterator)

    def close(self):
        self._script.use('close', getattr(self._iterator, 'close', lambda: None))
