"""ZODB, bound to the simulated world: its clock, locks and files; and our packer, which is made of it.

ZODB has no seam, so its modules' names for ``open``, ``os``, ``time`` and locks are replaced here, in one
place, while a simulation runs.  In a task they mean the task's process; outside of tasks what they always do.
"""
from __future__ import annotations

import builtins
import contextlib
import errno
import os
import os.path
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

import zc.lockfile
import ZODB.BaseStorage
import ZODB.blob
import ZODB.DB
import ZODB.FileStorage.fspack
import ZODB.fsIndex
import ZODB.MappingStorage
import ZODB.mvccadapter
import ZODB.utils

from simulation import children
from simulation.network import failure
from simulation.runtime import open_file
from zeo_clone.configuration import packer

if TYPE_CHECKING:
    from simulation.kernel import Kernel
    from simulation.machine import Process
    from simulation.runtime import SimRuntime

#: The module, whose name in its package is that of the class.
FILE_STORAGE: Any = sys.modules['ZODB.FileStorage.FileStorage']


class Binding:
    """To the tasks of one kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    @property
    def process(self) -> Process | None:
        """Of the task that runs."""
        task = self.kernel.current
        return None if task is None else task.process

    @property
    def runtime(self) -> SimRuntime | None:
        process = self.process
        return None if process is None else process.runtime

    def either(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        """The runtime's method `name` in a task, else `real`."""
        def function(*args: Any, **keywords: Any) -> Any:
            runtime = self.runtime
            return (real if runtime is None else getattr(runtime, name))(*args, **keywords)
        return function

    def open(self, path: Any, mode: str = 'r', *args: Any, **keywords: Any) -> Any:
        process = self.process
        if process is None:
            return builtins.open(path, mode, *args, **keywords)
        process.step()
        process.may_fail('open', path)
        buffering = args[0] if args else keywords.get('buffering', -1)
        return open_file(process, path if isinstance(path, int) else os.fspath(path), mode, buffering)

    def lock_file(self, path: str, *args: Any, **keywords: Any) -> Any:
        runtime = self.runtime
        return zc.lockfile.LockFile(path, *args, **keywords) if runtime is None else runtime.lock_file(path)

    def mkstemp(self, suffix: str = '', prefix: str = 'tmp', dir: Any = None, text: bool = False) -> Any:
        runtime, process = self.runtime, self.process
        if runtime is None or process is None:
            return tempfile.mkstemp(suffix, prefix, dir, text)
        path = os.path.join(dir or '/tmp', f'{prefix}{runtime.randbytes(4).hex()}{suffix}')
        file = runtime.create(path)
        return file.detach().fileno(), path  # type: ignore[attr-defined]


class Path:
    """As ``os.path``: what asks the disk is bound."""

    def __init__(self, binding: Binding) -> None:
        self._binding = binding

    def __getattr__(self, name: str) -> Any:
        return getattr(os.path, name)

    def _node(self, path: str) -> Any:
        process = self._binding.process
        assert process is not None
        try:
            return process.machine.disk.find(os.fspath(path))
        except OSError:
            return None

    def exists(self, path: str) -> bool:
        return os.path.exists(path) if self._binding.process is None else self._node(path) is not None

    def isdir(self, path: str) -> bool:
        if self._binding.process is None:
            return os.path.isdir(path)
        node = self._node(path)
        return node is not None and node.is_directory

    def isfile(self, path: str) -> bool:
        if self._binding.process is None:
            return os.path.isfile(path)
        node = self._node(path)
        return node is not None and not node.is_directory

    def getsize(self, path: str) -> int:
        runtime = self._binding.runtime
        return os.path.getsize(path) if runtime is None else runtime.stat(path).st_size

    def getmtime(self, path: str) -> float:
        runtime = self._binding.runtime
        return os.path.getmtime(path) if runtime is None else runtime.stat(path).st_mtime

    def abspath(self, path: str) -> str:
        return os.path.abspath(path)


class System:
    """As ``os``: what acts on the disk is bound."""

    def __init__(self, binding: Binding) -> None:
        self._binding = binding
        self.path = Path(binding)
        either = binding.either
        self.rename = self.replace = either('rename', os.rename)
        self.remove = self.unlink = either('remove', os.remove)
        self.listdir = either('listdir', os.listdir)
        self.mkdir = either('mkdir', os.mkdir)
        self.stat = either('stat', os.stat)
        self.lstat = either('lstat', os.lstat)
        self.chmod = either('chmod', os.chmod)
        self.utime = either('utime', os.utime)
        self.fsync = either('fsync', os.fsync)
        self.getpid = either('getpid', os.getpid)
        self.symlink = either('symlink', os.symlink)
        self.readlink = either('readlink', os.readlink)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def close(self, fd: int) -> None:
        runtime, process = self._binding.runtime, self._binding.process
        if runtime is None or process is None:
            os.close(fd)
        else:
            process.free_fd(fd)

    def makedirs(self, path: str, mode: int = 0o777, exist_ok: bool = False) -> None:
        runtime = self._binding.runtime
        if runtime is None:
            os.makedirs(path, mode, exist_ok)
            return
        path = os.path.normpath(path)
        if not self.path.exists(os.path.dirname(path)):
            self.makedirs(os.path.dirname(path), mode, True)
        try:
            runtime.mkdir(path, mode)
        except FileExistsError:
            if not exist_ok:
                raise

    def rmdir(self, path: str) -> None:
        process = self._binding.process
        if process is None:
            os.rmdir(path)
        else:
            process.machine.disk.remove(path, directory=True)

    def remove_all(self, path: str) -> None:
        """As ``shutil.rmtree``."""
        for directory, _, files in self.walk(path, topdown=False):
            for name in files:
                self.remove(os.path.join(directory, name))
            self.rmdir(directory)

    def link(self, source: str, target: str) -> None:
        process = self._binding.process
        if process is None:
            os.link(source, target)
            return
        disk = process.machine.disk
        directory, name = disk.parent(target)
        if name in directory.names:
            raise failure(errno.EEXIST)
        disk.put(directory, name, disk.find(source))

    def walk(self, top: str, topdown: bool = True, **keywords: Any) -> Iterator[Any]:
        process = self._binding.process
        if process is None:
            yield from os.walk(top, topdown, **keywords)
            return
        node = process.machine.disk.find(top)
        here = (top, [name for name, child in node.names.items() if child.is_directory],
                [name for name, child in node.names.items() if not child.is_directory])
        if topdown:
            yield here
        for name in here[1]:
            yield from self.walk(os.path.join(top, name), topdown)
        if not topdown:
            yield here


class Time:
    """As ``time``."""

    def __init__(self, binding: Binding) -> None:
        self.time = binding.either('time', time.time)

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


@contextlib.contextmanager
def bound(kernel: Kernel) -> Iterator[Binding]:
    """While it lasts, ZODB's modules use the world of `kernel`."""
    binding = Binding(kernel)
    system, clock = System(binding), Time(binding)
    locks = {'Lock': binding.either('lock', threading.Lock),
             'RLock': binding.either('rlock', threading.RLock),
             'Condition': binding.either('condition', threading.Condition)}
    replaced: list[tuple[ModuleType, dict[str, Any]]] = [
        (FILE_STORAGE, {'open': binding.open, 'os': system, 'time': clock, 'LockFile': binding.lock_file,
                        'fsync': system.fsync, 'remove_committed': system.remove,
                        'remove_committed_dir': system.remove_all, 'link_or_copy': system.link}),
        (ZODB.FileStorage.fspack, {'open': binding.open, 'os': system}),
        (ZODB.fsIndex, {'open': binding.open}),
        (ZODB.BaseStorage, {'time': clock}),
        (ZODB.MappingStorage, {'time': clock}),
        (ZODB.utils, {'time': clock, 'os': system, 'mkstemp': binding.mkstemp, **locks}),
        (ZODB.blob, {'os': system, 'open': binding.open, 'remove_committed': system.remove}),
        (ZODB.DB, {'time': clock}),
        (ZODB.mvccadapter, {'Lock': locks['Lock']}),
        (packer, children.names(binding, system)),
    ]
    before: list[tuple[ModuleType, str, Any]] = []
    for module, names in replaced:
        for name, value in names.items():
            before.append((module, name, module.__dict__.get(name, before)))
            setattr(module, name, value)
    try:
        yield binding
    finally:
        for module, name, value in reversed(before):
            if value is before:
                delattr(module, name)
            else:
                setattr(module, name, value)
