"""Blobs that a client asks for: sent in chunks, one blob after another, as fast as the client reads.

In: requests, and word from the channel that there is room.  Out: ``receiveBlob...`` calls of the
client, then the reply.  Files are opened and read in a worker thread, a piece at a time and one ahead of
what is being sent, so that memory stays flat and the loop goes on (B9).  Loop thread only.
"""
from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import IO, TYPE_CHECKING

from ZODB.POSException import StorageError

from zeo_clone.server.deferred import Deferred
from zeo_clone.server.vocabulary import TooBusy
from zeo_clone.zrpc.offers import BLOB_CHUNK

if TYPE_CHECKING:
    from zeo_clone.server.clients.member import Member

#: What is read at once and queued for the client.
PIECE = 16 * BLOB_CHUNK
#: Blobs that a client may ask for before it has got the first.
MAX_REQUESTS = 10_000
#: A backend's ``open_blob``.
Open = Callable[[bytes, bytes], IO[bytes]]


class Downloads:
    """The blobs on their way to one client."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._requests: deque[tuple[bytes, bytes, Deferred]] = deque()  # the first one is under way
        self._file: IO[bytes] | None = None
        self._next: bytes | None = None  # the piece that was read ahead
        self._has_room = False  # the client can take it
        self._closed = False

    def __repr__(self) -> str:
        return f'<Downloads, {len(self._requests)} to go>'

    def request(self, oid: bytes, serial: bytes) -> Deferred:
        """Send the blob of a revision; the result, None, comes after it."""
        if len(self._requests) >= MAX_REQUESTS:
            raise StorageError(f'{MAX_REQUESTS} blobs are on their way to this client already')
        deferred = Deferred()
        self._requests.append((oid, serial, deferred))
        if len(self._requests) == 1:
            self._begin()
        return deferred

    def go_on(self) -> None:
        """There is room for more."""
        self._has_room = True
        if self._next is not None:
            self._send(self._next)

    def close(self) -> None:
        """The client has gone."""
        self._closed = True
        self._next = None
        self._requests.clear()
        self._close_file()

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):  # of a network file system; it was only read
                file.close()

    def _begin(self) -> None:
        while self._requests:
            oid, serial, deferred = self._requests[0]
            try:
                self._member.check_room()
                opening = self._member.slow(partial(self._member.backend.open_blob, oid, serial))
            except (TooBusy, OSError) as error:
                self._requests.popleft()
                deferred.fail(error)
                continue
            opening.when_settled(self._opened)
            break

    def _opened(self, file: IO[bytes], error: BaseException | None) -> None:
        if self._closed:
            if error is None:
                self._file = file
                self._close_file()
        elif error is not None:
            self._end(error)
        else:
            oid, serial, _ = self._requests[0]
            self._file = file
            self._member.send_oneway('receiveBlobStart', (oid, serial))
            self._has_room = True
            self._read()

    def _read(self) -> None:
        if self._file is None:
            return  # the client has gone while something was sent to it
        try:
            reading = self._member.slow(partial(self._file.read, PIECE))
        except TooBusy as error:
            self._end(error)
        else:
            reading.when_settled(self._got_piece)

    def _got_piece(self, piece: bytes, error: BaseException | None) -> None:
        if self._closed:
            return
        if error is not None:
            self._end(error)
        elif self._has_room:
            self._send(piece)
        else:
            self._next = piece

    def _send(self, piece: bytes) -> None:
        self._next, self._has_room = None, False
        oid, serial, _ = self._requests[0]
        for start in range(0, len(piece), BLOB_CHUNK):
            self._member.queue_oneway('receiveBlobChunk', (oid, serial, piece[start:start + BLOB_CHUNK]))
        if len(piece) == PIECE:
            self._member.want_room()
            self._read()
        else:
            self._member.send_oneway('receiveBlobStop', (oid, serial))
            self._end(None)

    def _end(self, error: BaseException | None) -> None:
        if self._closed:
            return
        self._close_file()
        _, _, deferred = self._requests.popleft()
        if error is None:
            deferred.succeed(None)
        else:
            deferred.fail(error)
        self._begin()


# ---- worker thread ------------------------------------------------------------------------------

def size_of_blob(open_blob: Open, oid: bytes, serial: bytes) -> int:
    """The size of a blob's file in bytes.  Raises POSKeyError."""
    with open_blob(oid, serial) as file:
        return file.seek(0, os.SEEK_END)
