"""Clients that misbehave: raw sockets that speak the protocol just as far as a test wants."""
from __future__ import annotations

import contextlib
import pickle
import socket
import struct

PATIENCE_S = 20


def framed(content):
    return struct.pack('>I', len(content)) + content


def call(number, name, *args):
    """The bytes of a two-way call."""
    return framed(pickle.dumps((number, False, name, args), 3))


def oneway(name, *args):
    """The bytes of a one-way call."""
    return framed(pickle.dumps((0, True, name, args), 3))


class Peer:
    """One connection.  `small` buffers: little is taken off the server's hands."""

    def __init__(self, address, small=False):
        self.socket = socket.socket()
        if small:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(address)
        self._file = self.socket.makefile('rb')

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self._file.close()
        self.socket.close()

    def read(self):
        """The next content."""
        head = self._file.read(4)
        if len(head) < 4:
            raise EOFError
        return self._file.read(struct.unpack('>I', head)[0])

    def send(self, *data):
        self.socket.sendall(b''.join(data))

    def register(self, read_only=False):
        assert self.read() == b'Z5'
        self.send(framed(b'Z5'), call(1, 'register', '1', read_only))
        assert pickle.loads(self.read())[2] == '.reply'
        return self

    def is_closed(self):
        """Waits for the end of what the server sends."""
        with contextlib.suppress(ConnectionError):
            while self._file.read(1 << 16):
                pass
        return True
