"""A TCP proxy in front of a database that can be unplugged, for what a server has to think of such a network.

    with Cable(path_of_its_socket) as cable:
        dsn = f'host=127.0.0.1 port={cable.port} ...'
        cable.unplug()     # nothing is handed on, in neither direction, ends of connections neither
        cable.break_off()  # the server's ends are closed: its system has given up; the database's stay
        cable.plug()       # what was held back is handed on

In: connections at `port`.  Out: for each one a connection to `target`.  Two threads per connection; the
methods may be called in any thread.  It knows nothing of what is said.
"""
from __future__ import annotations

import contextlib
import itertools
import socket
import threading

from tests.support.proxy import connect, shut

PIECE = 1 << 16


class Cable:
    """Plugged in when made.  A context manager."""

    def __init__(self, target):
        self._target = target
        self._lock = threading.Lock()  # protects what follows
        self._pairs = {}  # the server's end and the database's; how many threads use them
        self._threads = []
        self._plugged = threading.Event()
        self._plugged.set()
        self._listener = socket.create_server(('127.0.0.1', 0))
        self.port = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shut(self._listener)
        self._accepting.join()
        self._listener.close()
        self.plug()
        with self._lock:
            for sock in itertools.chain(*self._pairs):
                shut(sock)
        for thread in self._threads:
            thread.join()

    def unplug(self):
        self._plugged.clear()

    def break_off(self):
        with self._lock:
            for near, _ in self._pairs:
                shut(near)

    def plug(self):
        self._plugged.set()

    # ---- threads ---------------------------------------------------------------------------------

    def _accept(self):
        while True:
            try:
                near = self._listener.accept()[0]
            except OSError:
                return
            try:
                far = connect(self._target)
            except OSError:
                near.close()
                continue
            with self._lock:
                pair = near, far
                self._pairs[pair] = 2
                self._threads = [thread for thread in self._threads if thread.is_alive()]
                for source, sink in (pair, pair[::-1]):
                    thread = threading.Thread(target=self._pump, args=(pair, source, sink), daemon=True)
                    self._threads.append(thread)
                    thread.start()

    def _pump(self, pair, source, sink):
        with contextlib.suppress(OSError):
            while piece := source.recv(PIECE):
                self._plugged.wait()
                sink.sendall(piece)
        self._plugged.wait()
        shut(source)
        shut(sink)
        with self._lock:
            self._pairs[pair] -= 1
            if not self._pairs[pair]:
                del self._pairs[pair]
                for sock in pair:
                    sock.close()
