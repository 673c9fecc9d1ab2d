"""A wire between client and server that can be cut, or swallow everything as a vanished host does.

Bytes in one direction are copied by one thread; the test decides when they are lost.
"""
from __future__ import annotations

import socket
import threading


class Wire:
    """Listens at `address` and connects to `target`."""

    def __init__(self, target):
        self._target = target
        self._listener = socket.create_server(('127.0.0.1', 0))
        self.address = self._listener.getsockname()
        self.changed = threading.Condition()  # protects swallowing, lost and ended
        self.swallowing = False
        self.lost = 0  # bytes swallowed
        self.ended = 0  # connections that one side has closed
        self._sockets = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self):
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self._target)
            except OSError:
                near.close()
                continue
            self._sockets += [near, far]
            for source, sink in ((near, far), (far, near)):
                thread = threading.Thread(target=self._copy, args=(source, sink))
                self._threads.append(thread)
                thread.start()

    def _copy(self, source, sink):
        try:
            while data := source.recv(65536):
                with self.changed:
                    swallowed = self.swallowing
                    self.lost += len(data) if swallowed else 0
                    self.changed.notify_all()
                if not swallowed:
                    sink.sendall(data)
        except OSError:
            pass
        with self.changed:
            self.ended += 1
            swallowed = self.swallowing
            self.changed.notify_all()
        if not swallowed:
            shut(sink)

    def swallow(self):
        """From now on nothing arrives, in both directions, on present connections and new ones."""
        with self.changed:
            self.swallowing = True

    def heal(self):
        """New connections work again; the old ones are over."""
        with self.changed:
            self.swallowing = False

    def cut(self):
        for sock in list(self._sockets):
            shut(sock)

    def wait(self, condition, timeout=20):
        with self.changed:
            assert self.changed.wait_for(condition, timeout), 'it did not happen'

    def close(self):
        shut(self._listener)
        self._listener.close()
        self._threads[0].join()
        self.cut()
        for thread in self._threads:
            thread.join()
        for sock in self._sockets:
            sock.close()


def shut(sock):
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
