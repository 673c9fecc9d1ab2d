"""A TCP proxy that knows frames, for networks as they are: slow, cut, silent.

    with Proxy(server.address, bytes_per_s=500_000) as proxy:
        storage = ClientStorage(proxy.address)
        proxy.cut(DOWN, b'tpc_finish', BEFORE)   # or a number: the n-th frame of a connection, from 1
        proxy.silence()
        proxy.heal()

In: connections at `address`.  Out: for each one a connection to `target`, over which whole frames are
handed on in both directions, `UP` to the server and `DOWN` to the client.  `bytes_per_s` bounds each
direction of each connection, `delay_s` is the age of a frame before it is handed on.  Two threads per
connection; the methods may be called in any thread.  It refuses to know what is in a frame, and cannot
be used below TLS.
"""
from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time

UP, DOWN = 'up', 'down'
BEFORE, INSIDE, AFTER = 'before', 'inside', 'after'

PIECE = 8192  # bytes handed on at once
LENGTH = struct.Struct('>I')


class Gone(Exception):
    """The connection has ended or is to be ended."""


class Proxy:
    """Listens when made.  A context manager."""

    def __init__(self, target, *, bytes_per_s=None, delay_s=0.0):
        self.bytes_per_s = bytes_per_s
        self.delay_s = delay_s
        self._target = target
        self._lock = threading.Lock()  # protects sockets, threads, cuts and counters
        self._cuts = []
        self._sockets = set()
        self._threads = []
        self.frames = {UP: 0, DOWN: 0}  # handed on so far, or just being handed on
        self.bytes = {UP: 0, DOWN: 0}
        self.cuts_made = 0
        self._flowing = threading.Event()
        self._flowing.set()
        self._closed = threading.Event()
        self._listener = socket.create_server(('127.0.0.1', 0))
        self.address = self._listener.getsockname()
        self._start(self._accept)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # ---- faults ----------------------------------------------------------------------------------

    def cut(self, direction, frame, where=AFTER):
        """Close the first connection on which `frame` comes by: a number, or bytes that it contains.

        `where` says how much of it is handed on: nothing, half, or all.
        """
        with self._lock:
            self._cuts.append((direction, frame, where))

    def silence(self):
        """Hand nothing on, as if the cable were unplugged, until `heal`; new connections likewise."""
        self._flowing.clear()

    def heal(self):
        """Hand on what was held back, and everything from now on."""
        self._flowing.set()

    def cut_all(self):
        """Close all connections; new ones are accepted."""
        with self._lock:
            sockets = list(self._sockets)
        for sock in sockets:
            shut(sock)

    def close(self):
        """Close everything, wait for the threads."""
        self._closed.set()
        self._flowing.set()
        shut(self._listener)
        self._listener.close()
        self.cut_all()
        for thread in self._threads:
            thread.join()

    # ---- threads ---------------------------------------------------------------------------------

    def _start(self, function, *args):
        thread = threading.Thread(target=function, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = connect(self._target)
            except OSError:
                client.close()
                continue
            for sock in (client, server):
                if sock.family != socket.AF_UNIX:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._sockets |= {client, server}
                ends = [client, server]  # the last thread of the two closes both
            self._start(self._pump, UP, client, server, ends)
            self._start(self._pump, DOWN, server, client, ends)
            if self._closed.is_set():
                self.cut_all()

    def _pump(self, direction, source, target, ends):
        number = 0
        with contextlib.suppress(OSError, Gone):
            while True:
                frame = read_frame(source)
                number += 1
                if self.delay_s:
                    time.sleep(self.delay_s)
                self._flowing.wait()
                where = self._cut_at(direction, number, frame)
                size = {BEFORE: 0, INSIDE: len(frame) // 2}.get(where, len(frame))
                with self._lock:  # before anybody can know of it
                    self.bytes[direction] += size
                    self.frames[direction] += 1
                self._send(target, frame[:size])
                if where is not None:
                    break
        shut(source)
        shut(target)
        with self._lock:
            ends.pop()
            if not ends:
                self._sockets -= {source, target}
        if not ends:
            source.close()
            target.close()

    def _cut_at(self, direction, number, frame):
        with self._lock:
            for planned in self._cuts:
                if planned[0] == direction and (
                        planned[1] in frame if isinstance(planned[1], bytes) else planned[1] == number):
                    self._cuts.remove(planned)
                    self.cuts_made += 1
                    return planned[2]
        return None

    def _send(self, target, data):
        if self.bytes_per_s is None:
            target.sendall(data)
            return
        for start in range(0, len(data), PIECE):
            piece = data[start:start + PIECE]
            target.sendall(piece)
            time.sleep(len(piece) / self.bytes_per_s)


def connect(address):
    if isinstance(address, str):
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(address)
        except BaseException:
            sock.close()
            raise
        return sock
    return socket.create_connection(address)


def read_frame(sock):
    """One frame with its length.  Raises Gone at the end of the stream."""
    head = read_exactly(sock, LENGTH.size)
    return head + read_exactly(sock, LENGTH.unpack(head)[0])


def read_exactly(sock, size):
    data = bytearray()
    while len(data) < size:
        piece = sock.recv(min(1 << 16, size - len(data)))
        if not piece:
            raise Gone
        data += piece
    return bytes(data)


def shut(sock):
    """Wake all threads that use `sock`, and say to the peer that it is over."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
