"""Packing one storage of a server from outside: connect, pack, watch that the server lives, say how it went.

In: a `Target`, a time to pack to.  Out: a line of text, or `PackError` with one.  A thread connects for
each target, a thread waits for the pack; the caller's thread shows progress meanwhile.  It knows no command
line.
"""
from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

from zeo_clone.addresses import Address, format_address
from zeo_clone.ClientStorage import ClientStorage
from zeo_clone.commands.health import NoAnswer, ask
from zeo_clone.commands.tlsoptions import TLS
from zeo_clone.loop.runtime import REAL, Runtime
from zeo_clone.wording import format_bytes, format_seconds

#: Pause between two attempts to reach a server, and between two signs of progress, in seconds.
RETRY_S = 0.5
PROGRESS_S = 0.5
#: While a pack runs the server is asked this often whether it is there, in seconds ...
CHECK_S = 15.0
#: Name of this client in the server's log.
LABEL = 'zeo-clone pack'


class PackError(Exception):
    """A storage was not packed; one line that says why."""


class Target(NamedTuple):
    """A storage to pack."""

    address: Address
    storage: str

    def __str__(self) -> str:
        return f'{format_address(self.address)}:{self.storage}'


class Outcome:
    """The value or the error of a function that runs in a thread of its own."""

    def __init__(self, function: Callable[[], Any], name: str, runtime: Runtime) -> None:
        self._function = function
        self._done = runtime.event()
        self._value: Any = None
        self._error: Exception | None = None
        runtime.start_thread(self._run, name)

    def _run(self) -> None:
        try:
            self._value = self._function()
        except Exception as error:
            self._error = error
        self._done.set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Whether it has ended, after at most `timeout_s` seconds."""
        return bool(self._done.wait(timeout_s))

    def result(self) -> Any:
        """Wait for the value; raises the error."""
        self.wait()
        if self._error is not None:
            raise self._error
        return self._value


class Packer:
    """Packs one target.  `timeout_s`: how long to try to connect, and how long a server may be mute."""

    def __init__(self, target: Target, timeout_s: float, tls: TLS | None, runtime: Runtime = REAL) -> None:
        self.target = target
        self._timeout_s = timeout_s
        self._tls = tls
        self._runtime = runtime
        self._connecting = Outcome(self._connect, f'zeopack {target}', runtime)

    # ---- a thread of its own ------------------------------------------------------------------------

    def _connect(self) -> Any:
        deadline = self._runtime.monotonic() + self._timeout_s
        known = self._names(deadline)
        if self.target.storage not in known:
            raise PackError(f'{self.target}: no such storage; the server has '
                            f'{", ".join(map(repr, sorted(known))) or "none"}')
        keywords: dict[str, Any] = {}
        if self._tls is not None:
            keywords = {'ssl': self._tls.context, 'ssl_server_hostname': self._tls.hostname}
        left = max(1.0, deadline - self._runtime.monotonic())
        return ClientStorage(self.target.address, self.target.storage, cache_size=0, wait_timeout=left,
                             read_only=True, client_label=LABEL, **keywords)

    def _names(self, deadline: float) -> dict[str, Any]:
        """The server's storages; a server that is just being started is waited for."""
        while True:
            left = deadline - self._runtime.monotonic()
            try:
                return ask(self.target.address, max(0.01, left), self._tls)
            except NoAnswer as error:
                if deadline - self._runtime.monotonic() <= RETRY_S:
                    raise PackError(f'cannot reach {error}') from error
                self._runtime.event().wait(RETRY_S)

    # ---- the caller's thread ------------------------------------------------------------------------

    def pack(self, time: float, show: Callable[[str], None]) -> str:
        """Pack to `time`, seconds since the epoch; what was achieved, in words.  Raises `PackError`.

        `show` is called now and then with a line about the progress.
        """
        while not self._connecting.wait(PROGRESS_S):
            show(f'connecting to {self.target}')
        try:
            with contextlib.closing(self._connecting.result()) as storage:
                return self._pack(storage, time, show)
        except PackError:
            raise
        except Exception as error:
            raise PackError(f'{self.target}: {_one_line(error)}') from error

    def _pack(self, storage: Any, time: float, show: Callable[[str], None]) -> str:
        started, before = self._runtime.monotonic(), storage.getSize()
        packing = Outcome(lambda: storage.pack(time), f'zeopack {self.target}', self._runtime)
        watch: Outcome | None = None
        asked = started
        while not packing.wait(PROGRESS_S):
            now = self._runtime.monotonic()
            show(f'packing {self.target}: {format_seconds(now - started)}, {format_bytes(before)}')
            if watch is None and now - asked >= CHECK_S:
                asked, watch = now, Outcome(self._check, f'zeopack {self.target}', self._runtime)
            elif watch is not None and watch.wait(0):
                watch = watch.result()  # None, or the error
        packing.result()
        elapsed = self._runtime.monotonic() - started
        return (f'packed {self.target} in {format_seconds(elapsed)}: {format_bytes(before)} before, '
                f'{format_bytes(storage.getSize())} now')

    def _check(self) -> None:
        ask(self.target.address, self._timeout_s, self._tls)


def _one_line(error: Exception) -> str:
    return ' '.join(f'{type(error).__name__}: {error}'.split())
