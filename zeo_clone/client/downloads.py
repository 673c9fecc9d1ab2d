"""Downloads: blobs on their way from the server, in the reader's role.

A link has `Downloads`; a thread that wants a blob adds a `Download` before it asks.  Chunks in, a file
out.  A full disk is an error of who asked, not of the connection; a chunk that nobody asked for is a
fault of the server.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import IO, Any

from zeo_clone.Exceptions import ProtocolError

#: Called with oid, bytes transferred so far, and the total, None if it is not known.
Progress = Callable[[bytes, int, 'int | None'], object]


class Download:
    """One blob on its way to `file`.  A full disk is the caller's error, not the connection's; so is what his
    `progress` raises, in whatever thread."""

    def __init__(self, oid: bytes, file: IO[bytes], progress: Progress | None) -> None:
        self.complete = False
        self._oid = oid
        self._progress = progress
        self._file = file
        self._error: Exception | None = None
        self._size = 0

    def chunk(self, data: bytes) -> None:
        """Reader's role: the next bytes."""
        if self._error is None and not self._file.closed:
            try:
                self._file.write(data)
                self._size += len(data)
                if self._progress is not None:
                    self._progress(self._oid, self._size, None)
            except Exception as error:
                self._error = error

    def stop(self) -> None:
        """Reader's role: all bytes are here."""
        self.complete = True

    def finish(self, path: str) -> None:
        """The call has ended.  Raises OSError, with `path`, if the bytes could not be written there, and what
        `progress` has raised."""
        try:
            self._file.close()
        except OSError as error:
            self._error = self._error or error
        if isinstance(self._error, OSError):
            self._error.filename = self._error.filename or path  # the server has disks, too
        if self._error is not None:
            raise self._error


class Downloads:
    """The blobs that one link is receiving.  Chunks that nobody asked for are a fault of the server."""

    def __init__(self) -> None:
        self._running: dict[tuple[bytes, bytes], Download] = {}

    def add(self, oid: bytes, serial: bytes, download: Download) -> None:
        """Expect the chunks of a blob; to be called before ``sendBlob`` is."""
        self._running[oid, serial] = download

    def discard(self, oid: bytes, serial: bytes) -> None:
        """The reply to ``sendBlob`` has come."""
        self._running.pop((oid, serial), None)

    def handle_notice(self, name: str, args: tuple[Any, ...]) -> None:
        """Reader's role: one of the three methods that carry a blob."""
        expected = 3 if name == 'receiveBlobChunk' else 2
        if len(args) != expected or any(type(arg) is not bytes for arg in args):
            raise ProtocolError(f'the server calls {name} with wrong arguments')
        download = self._running.get(args[:2])
        if download is None:
            raise ProtocolError('the server sends a blob that was not asked for')
        if name == 'receiveBlobChunk':
            download.chunk(args[2])
        elif name == 'receiveBlobStop':
            download.stop()


NOTICES = frozenset({'receiveBlobStart', 'receiveBlobChunk', 'receiveBlobStop'})
