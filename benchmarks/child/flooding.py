"""A client that sends more than its share: one kind of request, as fast as the server takes it.

It speaks the protocol itself, through a bare socket, so that it costs next to nothing beside the server and
is the same for all of them.  Answers are read and thrown away.
"""
from __future__ import annotations

import base64
import contextlib
import pickle
import select
import socket
import struct

from ZODB.utils import maxtid, p64

#: Requests that are sent at once.
BURST = 100
PIECE = 1 << 20
#: Longer than a server ever took to answer the first questions.
PATIENCE_S = 60
NOBODY = p64(1 << 62)


def message(number, name, *args):
    content = pickle.dumps((number, False, name, args), 3)
    return struct.pack('>I', len(content)) + content


class Raw:
    """A connection that has registered, for reading."""

    def __init__(self, address):
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.socket = socket.socket(family)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(address)
        self._file = self.socket.makefile('rb')
        self._receive()
        self.socket.sendall(struct.pack('>I', 2) + b'Z5')
        self.call('register', '1', True)

    def _receive(self):
        return self._file.read(struct.unpack('>I', self._file.read(4))[0])

    def call(self, name, *args):
        self.socket.sendall(message(1, name, *args))
        while True:
            number, flag, _, value = pickle.loads(self._receive())
            if number == 1:
                if flag == 2:
                    raise RuntimeError(f'{name}: {value}')
                return value

    def close(self):
        self._file.close()
        self.socket.close()


def request(raw, kind):
    """A method with arguments: what is sent again and again."""
    if kind == 'invalidations':  # everything that the server remembers
        for entry in reversed(raw.call('undoLog', 0, 1000)):
            tid = base64.decodebytes(entry['id'] + b'\n')
            if raw.call('getInvalidations', tid) is not None:
                return 'getInvalidations', tid
    if kind == 'undo':
        return 'undoLog', 0, 1 << 20
    return 'loadBefore', NOBODY, maxtid


def flood(store, waiting, kind):
    """Yields once when it is about to begin; goes on until `waiting()`, and yields how many bytes it sent."""
    with contextlib.closing(Raw(store.address)) as raw:
        burst = b''.join(message(2, *request(raw, kind)) for _ in range(BURST))
        raw.socket.setblocking(False)
        yield 'begins'
        sent, rest = 0, b''
        while not waiting():
            readable, writable, _ = select.select([raw.socket], [raw.socket], [], 0.01)
            if readable:
                raw.socket.recv(PIECE)
            if writable:
                rest = rest or burst
                count = raw.socket.send(rest)
                rest, sent = rest[count:], sent + count
    yield sent
