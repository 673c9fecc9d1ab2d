"""TLS over a transport, through memory BIOs.

Plain bytes in and out above, TLS records below; the handshake runs by itself inside `receive`.  One lock
guards TLS object and output together, so that reading and writing threads never meet in it and records
leave in the order in which they were made.
"""
from __future__ import annotations

import ssl

from zeo_clone.loop.runtime import Runtime, Socket
from zeo_clone.loop.transport import READ_SIZE, Transport


class TLSTransport(Transport):
    """A `Transport` whose bytes are encrypted.  Certificate and protocol faults are ``ssl.SSLError``,
    an ``OSError``, out of `receive`."""

    def __init__(self, sock: Socket, runtime: Runtime, context: ssl.SSLContext, *,
                 server_side: bool, server_hostname: str | None = None) -> None:
        super().__init__(sock, runtime)
        self._lock = runtime.rlock()  # protects _tls, both BIOs, _early and the output queue
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side,
                                     server_hostname=server_hostname)
        self._early: list[bytes] = []  # what was to be sent before the handshake was done
        self._shaken = False
        if not server_side:
            self._shake()

    def write(self, data: bytes) -> None:
        with self._lock:
            if self._shaken:
                self._tls.write(data)
                super().write(self._outgoing.read())
            else:
                self._early.append(data)

    def send(self, data: bytes) -> None:
        with self._lock:
            self.write(data)
            super().flush()

    def flush(self) -> bool:
        with self._lock:
            return super().flush()

    def receive(self) -> bytes | None:
        data = super().receive()
        if data is None:
            return None
        with self._lock:
            if data:
                self._incoming.write(data)
            else:
                self._incoming.write_eof()
            if not self._shaken and not self._shake():
                return None if data else b''
            plain = self._decrypt()
        return plain or (None if data else b'')

    def _shake(self) -> bool:
        try:
            self._tls.do_handshake()
            self._shaken = True
        except ssl.SSLWantReadError:
            pass
        finally:
            self._put_out()  # an alert that says what is wrong goes out, too
        if self._shaken:
            early, self._early = self._early, []
            for data in early:
                self.write(data)
            super().flush()
        return self._shaken

    def _decrypt(self) -> bytes:
        pieces = []
        try:
            while piece := self._tls.read(READ_SIZE):
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            pass  # the end of the stream; frames tell whether it was cut
        self._put_out()
        return b''.join(pieces)

    def _put_out(self) -> None:
        if self._outgoing.pending:
            super().write(self._outgoing.read())
            super().flush()
