"""Things that fail at their N-th use: a storage, its iterators, the files that a runtime opens.

    script = Script()
    storage = brittle(FileStorage, script)(path, ...)
    script.arm(3, OSError(EIO, '...'))        # the third use from now on raises; later ones work again

Every fallible thing counts on one script, so that N = 1, 2, 3, ... covers each step of a scenario.
"""
from __future__ import annotations

import os

#: What servers call of a storage.
STORAGE_METHODS = (
    'tpc_begin', 'store', 'storeBlob', 'restore', 'deleteObject', 'checkCurrentSerialInTransaction',
    'tpc_vote', 'tpc_finish', 'tpc_abort', 'tpc_transaction', 'lastTransaction', 'getSize', '__len__',
    'loadBefore', 'loadSerial', 'loadBlob', 'iterator', 'temporaryDirectory', 'new_oid', 'isReadOnly',
    'getTid', 'undoLog', 'history', 'undo', 'pack', 'lastInvalidations', 'getName', 'supportsUndo')


#: What we ask of a file system.
FILE_METHODS = (
    'open', 'create', 'rename', 'remove', 'copy', 'mkdir', 'listdir', 'stat', 'lstat', 'fstat', 'chmod',
    'utime', 'symlink', 'readlink', 'close_fd', 'fsync', 'sync_file', 'sync_directory', 'open_directory',
    'open_to_lock', 'flock', 'entries', 'pread', 'pwrite', 'temporary_file')
#: Those of them that open a descriptor.
DESCRIPTORS = ('open_directory', 'open_to_lock')


class Script:
    """Counts uses; raises at one of them, before or after it has done its work."""

    def __init__(self):
        self.used = []  # names, since `arm`
        self.iterators = []  # that are open
        self._at = None  # None: disarmed
        self._armed = 0
        self._error = None
        self._after = False

    def arm(self, number, error, after=False):
        """Let use `number`, counted from 1, raise `error`: `after` it has been done, or instead."""
        self.used = []
        self._at = self._armed = number
        self._error, self._after = error, after

    @property
    def has_raised(self):
        """Since it was armed the last time."""
        return len(self.used) >= self._armed

    def disarm(self):
        """Everything works.  Whether it had raised.  The error's traceback keeps nothing open."""
        armed, self._at, self._error = self._at is not None, None, None
        return armed and self.has_raised

    def use(self, name, function, *args, **keywords):
        """``function(*args)``, as one use.  What closes a descriptor does so, whatever it raises."""
        self.used.append(name)
        now = len(self.used) == self._at
        if now and not self._after and not name.startswith('close'):
            raise self._error
        result = function(*args, **keywords)
        if now:
            drop(name, result)
            raise self._error
        return result


def drop(name, result):
    """Close what was opened in vain."""
    if name in DESCRIPTORS:
        os.close(result)
    elif hasattr(result, 'fileno'):
        result.close()


def brittle_files(runtime, script):
    """Have the methods of `runtime` that touch files be uses of `script`, and so are writing to a file that
    it has made, and closing it."""
    def counted(name):
        real = getattr(runtime, name)

        def method(*args, **keywords):
            result = script.use(name, real, *args, **keywords)
            writable = hasattr(result, 'write') and result.writable()
            return BrittleFile(script, result) if writable else result
        return method

    runtime.fsync = lambda fd: None  # nothing here is about the disk
    for name in FILE_METHODS:
        setattr(runtime, name, counted(name))
    return runtime


class BrittleFile:
    """A file for which writing, syncing and closing are uses."""

    def __init__(self, script, file):
        self._script = script
        self._file = file

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def write(self, data):
        return self._script.use('write', self._file.write, data)

    def close(self):
        if not self._file.closed:
            self._script.use('close', self._file.close)


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
        script.iterators.append(self)

    def __iter__(self):
        return self

    def __next__(self):
        return self._script.use('next', next, self._iterator)

    def close(self):
        self._script.iterators.remove(self)
        self._script.use('close', self._iterator.close)
