"""Downloads: blobs on their way from the server, in the reader's role.

A link has `Downloads`; a thread that wants a blob asks by them, with a `Download`.  Chunks in, a file out.
A full disk is an error of who asked, not of the connection; a chunk that nobody asked for is a fault of the
server.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import IO, Any

from zeo_clone.Exceptions import ProtocolError
from zeo_clone.zrpc.channel.calls import Joinable
from zeo_clone.zrpc.channel.client import ClientChannel

#: Oid and serial of a revision.
Key = tuple[bytes, bytes]
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


class Request(Joinable):
    """A call of ``sendBlob``."""

    __slots__ = ('_key', '_running', 'download')

    def __init__(self, running: dict[Key, Request], key: Key, download: Download) -> None:
        super().__init__()
        self.value = None
        self.download = download
        self._key = key
        self._running = running

    def take(self, value: Any) -> None:
        """Called by the channel: the reply, which says nothing."""

    def finish(self) -> None:
        """Called by the channel: no more will come."""
        if self._running.get(self._key) is self:
            del self._running[self._key]
        super().finish()


class Downloads:
    """The blobs that one link is receiving.  Chunks that nobody asked for are a fault of the server."""

    def __init__(self) -> None:
        self._running: dict[Key, Request] = {}

    def ask(self, channel: ClientChannel, oid: bytes, serial: bytes, download: Download) -> None:
        """Any thread: have a blob sent, and wait for its end."""
        key = oid, serial
        while (earlier := self._running.get(key)) is not None:
            channel.join(earlier)  # a signal's exception took its thread away; the rest of it comes first
        request = self._running[key] = Request(self._running, key, download)
        try:
            channel.begin('sendBlob', key, request)
        except BaseException:
            request.finish()
            raise
        channel.join(request)
        request.result()

    def handle_notice(self, name: str, args: tuple[Any, ...]) -> None:
        """Reader's role: one of the three methods that carry a blob."""
        expected = 3 if name == 'receiveBlobChunk' else 2
        if len(args) != expected or any(type(arg) is not bytes for arg in args):
            raise ProtocolError(f'the server calls {name} with wrong arguments')
        request = self._running.get(args[:2])
        if request is None:
            raise ProtocolError('the server sends a blob that was not asked for')
        download = request.download
        if name == 'receiveBlobChunk':
            download.chunk(args[2])
        elif name == 'receiveBlobStop':
            download.stop()


NOTICES = frozenset({'receiveBlobStart', 'receiveBlobChunk', 'receiveBlobStop'})
