"""The monitor of one server: listens for HTTP in a loop and a thread of its own.

In: an address; a server, as soon as there is one.  Out: answers to whoever asks.  It is there before the
storages are open and until they are closed, to say so.  All methods in any thread.
"""
from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from zeo_clone.addresses import Address
from zeo_clone.loop.core import Loop
from zeo_clone.loop.runtime import REAL, Runtime
from zeo_clone.monitor.answers import Answers
from zeo_clone.monitor.hosts import Hosts
from zeo_clone.monitor.web import Door, Rules
from zeo_clone.server.clients.listen import open_listeners


class Monitor:
    """Listens at `address`, ``(host or None, port)``, from when it is made.  Raises ``OSError``.

    It answers for ``localhost``, its own address, and `hosts`.  With `disconnect` whoever sees the page may
    have clients disconnected.
    """

    def __init__(self, address: Address, runtime: Runtime = REAL, *, hosts: Iterable[str] = (),
                 disconnect: bool = False) -> None:
        self._loop = Loop(runtime)
        self._answers = Answers(self._loop, disconnect)
        own = [address[0]] if isinstance(address, tuple) and address[0] else []
        rules = Rules(Hosts([*own, *hosts]), self._answers.posts)
        door = Door(self._loop, self._answers.answer, rules)
        try:
            _, self.address = open_listeners(self._loop, address, door.connected, pause=door.pause_s)
        except BaseException:
            self._loop.close()
            raise
        self._thread = runtime.start_thread(self._loop.run, 'zeo-monitor')

    def __repr__(self) -> str:
        return f'<Monitor at {self.address!r}>'

    @property
    def url(self) -> str:
        """Where the page for people is; with ``*`` for all interfaces."""
        host, port = self.address[0] or '*', self.address[1]
        return f'http://[{host}]:{port}/' if ':' in host else f'http://{host}:{port}/'

    def begin(self, server: Any) -> None:
        """`server` serves from now on."""
        self._answers.begin(server)

    def stop(self) -> None:
        """The server is stopping."""
        self._answers.stop()

    def close(self) -> None:
        """Listen no longer.  May be called twice."""
        self._loop.stop()
        self._loop.close()
        self._thread.join()
