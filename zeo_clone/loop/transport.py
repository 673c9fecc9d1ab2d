"""A transport: non-blocking bytes through one socket, write first, queue what is left.

Bytes in and out, ``OSError`` out.  It knows no loop and takes no lock: on the server the loop's thread
alone uses it, on the client `send` and `flush` run under the link's send lock and `receive` in the
reader's role, which touch separate fields.
"""
from __future__ import annotations

from collections import deque

from zeo_clone.loop.runtime import Runtime, Socket

#: Bytes read from a socket at once ...
READ_SIZE = 64 * 1024
#: ... after a read that was full: more waits ...
FULL_READ_SIZE = 120 * 1024
#: ... and where a large frame comes in.  Small ones in such a piece would take too much of the others' time.
BULK_READ_SIZE = 512 * 1024
#: Bytes written to one socket before the others get a turn.
BYTES_PER_TURN = 4 * 1024 * 1024
#: Small queued pieces are joined up to this length for one system call.
JOIN_SIZE = 128 * 1024
#: From this length on a piece is sent as it is: to copy it costs more than the system call.
LARGE_PIECE = 32 * 1024


def keep_freed_memory() -> None:
    """Have glibc keep more of what is freed; once per process.

    It gives the end of its heap back to the system when more than 128 KB are free there: then each piece
    that is read would be mapped anew, page by page: 540 MB/s of a blob instead of 1,300.  From a freed piece
    that was larger than usual it learns to keep twice as much.  Nothing of this one is ever touched.
    """
    bytes(2 << 20)


keep_freed_memory()


class Transport:
    """Plain bytes over a connected, non-blocking socket."""

    #: Does what waits consist of the pieces that were given, or of copies?
    keeps_pieces = True

    def __init__(self, sock: Socket, runtime: Runtime) -> None:
        self.socket = sock
        self.runtime = runtime
        self._queue: deque[bytes | memoryview] = deque()
        self.queued = 0  # bytes in _queue
        self.sent = 0
        self.received = 0
        self._read_size = READ_SIZE

    def __repr__(self) -> str:
        return f'<{type(self).__name__} fd {self.socket.fileno()}, {self.queued} bytes queued>'

    @property
    def established(self) -> bool:
        """Can bytes of the application pass?  Under TLS, not before the end of its handshake."""
        return True

    @property
    def pieces(self) -> int:
        """How many pieces wait to be sent?"""
        return len(self._queue)

    def forget(self) -> None:
        """Nothing of what waits will be sent."""
        self._queue.clear()
        self.queued = 0

    def write(self, data: bytes) -> None:
        """Queue `data` only; `flush` sends it together with what else is queued."""
        self._queue.append(data)
        self.queued += len(data)

    def send(self, data: bytes) -> None:
        """Hand `data` to the socket at once if nothing is queued; queue what it does not take."""
        if not self._queue:
            try:
                count = self.socket.send(data)
            except (BlockingIOError, InterruptedError):
                count = 0
            self.sent += count
            if count == len(data):
                return
            self._queue.append(memoryview(data)[count:])
            self.queued += len(data) - count
        else:
            self.write(data)

    def flush(self) -> bool:
        """Hand the socket as much of the queue as it takes; True when the queue is empty."""
        budget = BYTES_PER_TURN
        while self._queue and budget > 0:
            data = self._next_piece()
            try:
                count = self.socket.send(data)
            except (BlockingIOError, InterruptedError):
                count = 0
            except BaseException:
                self._queue.appendleft(data)
                raise
            self.sent += count
            self.queued -= count
            budget -= count
            if count < len(data):
                self._queue.appendleft(memoryview(data)[count:])
                break
        return not self._queue

    def _next_piece(self) -> bytes | memoryview:
        piece = self._queue.popleft()
        if not self._queue or len(piece) >= LARGE_PIECE:
            return piece
        pieces, size = [piece], len(piece)
        while self._queue and len(self._queue[0]) < LARGE_PIECE and size + len(self._queue[0]) <= JOIN_SIZE:
            pieces.append(self._queue.popleft())
            size += len(pieces[-1])
        return b''.join(pieces) if len(pieces) > 1 else piece

    def receive(self, bulk: bool = False) -> bytes | None:
        """What has arrived, a larger piece in `bulk`; None if nothing has, b'' at the end of the stream."""
        try:
            data = self.socket.recv(BULK_READ_SIZE if bulk else self._read_size)
        except (BlockingIOError, InterruptedError):
            return None
        size = len(data)
        self._read_size = READ_SIZE if size < READ_SIZE else FULL_READ_SIZE
        self.received += size
        return data

    def shutdown(self) -> None:
        """End the stream both ways; wakes a thread that waits in `wait`.  Never raises."""
        try:
            self.socket.shutdown(self.runtime.SHUT_RDWR)
        except OSError:
            pass  # not connected any more
