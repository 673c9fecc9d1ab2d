"""Frames: ``>I`` length (4 bytes, big-endian, content only), then the content.

Bytes in, contents out, and the reverse.  Sans-I/O: no sockets, no clock.  A frame is put together in
time linear in its length, in memory that grows with what has arrived, never with what was announced;
a length above the limit is refused as soon as its four bytes are there.
"""
from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from zeo_clone.Exceptions import ProtocolError

LENGTH = struct.Struct('>I')
assert LENGTH.size == 4

#: Before register a peer is a stranger: a protocol name and a register call fit well into this.
STRANGER_LIMIT = 1024
#: Afterwards a frame holds at most one record or one list of oids.
DEFAULT_LIMIT = 256 << 20
#: The most that four bytes of length can tell.
MAX_FRAME = 0xffffffff
#: What is longer than this comes in with little work for each byte.
LARGE_FRAME = 32 << 10
#: What the first bytes of other protocols look like, to say so when their "length" is refused.
_FOREIGN = {b'\x16\x03': 'TLS', b'\x15\x03': 'TLS', b'GE': 'HTTP', b'HE': 'HTTP', b'HT': 'HTTP',
            b'PO': 'HTTP', b'SS': 'SSH'}


_pack_length = LENGTH.pack


def frame(content: bytes) -> bytes:
    """`content` with its length in front."""
    return _pack_length(len(content)) + content


class FrameReader:
    """Takes bytes as they come and gives out whole contents, in order.

    `exception` is asked about a frame above the limit: how long may one be just now?  `key`: what an operator
    knows the limit by.
    """

    def __init__(self, limit: int = STRANGER_LIMIT, exception: Callable[[], int] | None = None,
                 key: str = '') -> None:
        self.limit = limit
        self.length = 0  # of the content that was given out last
        self._exception = exception
        self._key = key
        #: The beginning of a frame, its length included: part of a piece as it came, or several put together.
        self.partial: bytes | bytearray | memoryview = b''
        self._wanted = 4  # how long `partial` must be to make progress

    @property
    def buffered(self) -> int:
        """Bytes kept of a frame that is not whole yet."""
        return len(self.partial)

    def forget(self) -> None:
        """Keep nothing: no more will come."""
        self.partial, self._wanted = b'', 4

    @property
    def is_large(self) -> bool:
        """Is the frame that is not whole yet a large one?"""
        return self._wanted > LARGE_FRAME

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The contents that `data` completes, each when it is asked for; ask until there is none left.

        Raises `ProtocolError` on a length above the limit, after the contents before it.
        """
        start, end = 0, len(data)
        if self.partial:
            start = self._wanted - len(self.partial)  # so many bytes of `data` belong to it
            if start > end:
                if type(self.partial) is not bytearray:
                    self.partial = bytearray(self.partial)
                self.partial += data
                return
            if self._wanted > 4:
                # Only this content is copied here, not what follows it.
                content = b''.join((memoryview(self.partial)[4:], memoryview(data)[:start]))
                self.length = self._wanted - 4
                self.partial, self._wanted = b'', 4
                yield content
            else:
                data = bytes(self.partial) + data
                self.partial = b''
                start, end = 0, len(data)
        while end - start >= 4:
            length, = LENGTH.unpack_from(data, start)
            if length > self.limit:
                self._check_length(length, data[start:start + 2])
            stop = start + 4 + length
            if stop > end:
                self._wanted = 4 + length
                break
            self.length = length
            yield data[start + 4:stop]
            start = stop
        if start < end:
            rest = memoryview(data)[start:]
            # To keep a large part of a piece is cheaper than to copy it; a small one would keep the whole.
            self.partial = rest if 2 * len(rest) > end else bytes(rest)

    def _check_length(self, length: int, start: bytes) -> None:
        limit = self.limit if self._exception is None else self._exception()
        if length > limit:
            foreign = _FOREIGN.get(start)
            raise ProtocolError(f'a frame of {length} bytes is announced; the limit is {limit}'
                                f'{f" ({self._key})" if self._key and not foreign else ""}'
                                f'{f"; the peer seems to speak {foreign}" if foreign else ""}')
