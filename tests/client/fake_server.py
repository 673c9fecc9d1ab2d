"""A scripted server: real sockets, our own core, answers that a test decides.

Each connection has a thread.  A test gives functions for methods, sends notices, holds replies back with
events, cuts connections.
"""
from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

from zeo_clone.zrpc.connection import Agreed, ServerCore

z64 = b'\0' * 8


def p64(number: int) -> bytes:
    return number.to_bytes(8, 'big')


class Refuse(Exception):
    """Raised by an answer: no reply at all."""


class FakeConnection:
    """One client as the server sees it."""

    def __init__(self, server: FakeServer, sock: socket.socket) -> None:
        self.server = server
        self.socket = sock
        self.core = ServerCore()
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self._lock = threading.Lock()

    def run(self) -> None:
        try:
            self.write(self.core.greet())
            while data := self.socket.recv(65536):
                for event in self.core.receive_data(data):
                    if not isinstance(event, Agreed):
                        self._handle(event)
        except OSError:
            pass
        finally:
            self.socket.close()
            with self.server.changed:
                self.server.connections.remove(self)
                self.server.changed.notify_all()

    def _handle(self, call: Any) -> None:
        with self.server.changed:
            self.calls.append((call.name, call.args))
            self.server.calls.append((call.name, call.args))
            self.server.changed.notify_all()
        answer = self.server.answers.get(call.name)
        try:
            value = answer(self, *call.args) if answer is not None else None
        except Refuse:
            return
        except Exception as error:
            if not call.oneway:
                self.write(self.core.send_error(call.id, error))
            return
        if call.name == 'register':
            self.core.registered()
            with self.server.changed:
                self.server.registered.append(self)
                self.server.changed.notify_all()
        if not call.oneway:
            self.write(self.core.send_reply(call.id, value))

    def write(self, data: bytes) -> None:
        with self._lock:
            self.socket.sendall(data)

    def notice(self, name: str, *args: Any) -> None:
        self.write(self.core.send_oneway(name, args))

    def cut(self) -> None:
        """End the connection as a dying server does."""
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


class FakeServer:
    """Listens on a free port of 127.0.0.1 and answers like a server of an empty storage."""

    def __init__(self, address: tuple[str, int] = ('127.0.0.1', 0)) -> None:
        self.tid = z64
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.connections: list[FakeConnection] = []
        self.registered: list[FakeConnection] = []
        self.changed = threading.Condition()
        self.answers: dict[str, Callable[..., Any]] = {
            'register': lambda connection, storage, read_only: self.tid,
            'get_info': lambda connection: {'length': 0, 'size': 0, 'name': 'fake',
                                            'supportsUndo': True, 'interfaces': ()},
            'lastTransaction': lambda connection: self.tid,
            'vote': lambda connection, number: [],
            'tpc_finish': lambda connection, number: self.next_tid(),
            'new_oids': lambda connection, n: [p64(i) for i in range(1, n + 1)],
        }
        self._listener = socket.create_server(address)
        self.address = self._listener.getsockname()
        self._thread = threading.Thread(target=self._accept)
        self._threads: list[threading.Thread] = []
        self._thread.start()

    def next_tid(self) -> bytes:
        self.tid = p64(int.from_bytes(self.tid, 'big') + 1)
        return self.tid

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            connection = FakeConnection(self, sock)
            with self.changed:
                self.connections.append(connection)
                self.changed.notify_all()
            thread = threading.Thread(target=connection.run)
            self._threads.append(thread)
            thread.start()

    def wait(self, condition: Callable[[], Any], timeout: float = 20) -> Any:
        """Wait until `condition` is true; it is looked at after each thing that happens."""
        with self.changed:
            result = self.changed.wait_for(condition, timeout)
            assert result, f'did not happen; calls so far: {[name for name, _ in self.calls]}'
            return result

    def called(self, name: str) -> int:
        return sum(1 for call, _ in self.calls if call == name)

    @property
    def client(self) -> FakeConnection:
        """The connection that registered last."""
        return self.registered[-1]

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        with self.changed:
            connections = list(self.connections)
        for connection in connections:
            connection.cut()
        for thread in self._threads:
            thread.join()
