"""TLS over a transport, through memory BIOs.

Plain bytes in and out above, TLS records below; the handshake runs by itself inside `receive`.  One lock
guards TLS object and output together, so that reading and writing threads never meet in it and records
leave in the order in which they were made.
"""
from __future__ import annotations

import ssl
from typing import Any

from zeo_clone.loop.runtime import Runtime, Socket
from zeo_clone.loop.transport import READ_SIZE, Transport

#: Plain bytes that are encrypted at once: a large message is never in memory twice as a whole.
ENCRYPT_SIZE = 1 << 20
#: What OpenSSL calls the first bytes of a peer that does not speak TLS.
NOT_TLS = frozenset({'WRONG_VERSION_NUMBER', 'HTTP_REQUEST', 'HTTPS_PROXY_REQUEST', 'UNKNOWN_PROTOCOL',
                     'UNSUPPORTED_PROTOCOL', 'RECORD_LAYER_FAILURE', 'PACKET_LENGTH_TOO_LONG'})


class TLSTransport(Transport):
    """A `Transport` whose bytes are encrypted.  Certificate and protocol faults are ``ssl.SSLError``,
    an ``OSError``, out of `receive`."""

    keeps_pieces = False

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

    @property
    def established(self) -> bool:
        return self._shaken

    def write(self, data: bytes) -> None:
        with self._lock:
            if self._shaken:
                self._encrypt(data)
            else:
                self._early.append(data)

    def send(self, data: bytes) -> None:
        with self._lock:
            self.write(data)
            super().flush()

    def flush(self) -> bool:
        with self._lock:
            return super().flush()

    def receive(self, bulk: bool = False) -> bytes | None:
        data = super().receive(bulk)
        if data is None:
            return None
        with self._lock:
            if data:
                self._incoming.write(data)
            else:
                self._incoming.write_eof()
            if not self._shaken and not self._shake():
                return None
            plain, ended = self._decrypt()
        return plain or (b'' if ended or not data else None)

    def _shake(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._put_out()
            return False
        except ssl.SSLError as error:
            try:
                self._put_out()  # an alert that says what is wrong
            except OSError:
                pass  # the peer has gone; its reason is in `error`
            raise _explained(error) from error
        self._shaken = True
        self._put_out()
        early, self._early = self._early, []
        for data in early:
            self.write(data)
        super().flush()
        return True

    def _encrypt(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            count = self._tls.write(rest[:ENCRYPT_SIZE])
            rest = rest[count:]
            super().write(self._outgoing.read())

    def _decrypt(self) -> tuple[bytes, bool]:
        """What has arrived, and whether that is the end of the stream."""
        pieces = []
        ended = False
        try:
            while piece := self._tls.read(READ_SIZE):
                pieces.append(piece)
            ended = True
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            ended = True  # frames tell whether something is missing
        try:
            self._put_out()
        except OSError:
            pass  # the peer has gone; what it said before counts, and then comes its end
        return b''.join(pieces), ended

    def _put_out(self) -> None:
        if self._outgoing.pending:
            super().write(self._outgoing.read())
            super().flush()


def check_client(context: ssl.SSLContext, hostname: Any) -> None:
    """Raises ValueError if no client can use `context` and look for `hostname` in a certificate."""
    try:
        context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=hostname).do_handshake()
    except ssl.SSLWantReadError:
        pass  # of a server's answer
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(str(error)) from None


def is_fault(error: OSError) -> bool:
    """Is it more than a hang-up: a certificate that is not accepted, a peer that speaks no TLS?"""
    return isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError)


def _explained(error: ssl.SSLError) -> ssl.SSLError:
    """The error of a handshake, with what it probably means."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error
    if isinstance(error, ssl.SSLEOFError):
        meaning = ('the other side closed the connection during the TLS handshake; perhaps it does not '
                   'speak TLS, or does not accept our certificate')
    elif error.reason in NOT_TLS:
        meaning = 'the other side does not seem to speak TLS'
    else:
        return error
    return type(error)(error.errno or 1, f'{meaning} ({error.reason or error})')
