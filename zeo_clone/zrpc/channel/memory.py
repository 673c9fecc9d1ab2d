"""What waits in a server's memory for its clients or came from them, and its bound (S12).

In: how much more, or less, each connection has waiting; who that is, nobody here knows.  Out: the sum, which
is kept as it changes, never counted anew; and word to whoever can close connections when it is above the
limit.  Loop thread only.
"""
from __future__ import annotations

from collections.abc import Callable

#: From this part of the limit on a connection gets no more than little output made at a time.
TIGHT = 0.25
#: What a piece of output takes besides its bytes.
PIECE_OVERHEAD = 100


class Memory:
    """What all connections of a server have waiting together, in bytes.

    `relieve` is called soon after the sum has gone above `limit`, through `later`; at the end of a
    connection's turn, when nothing is half done, `check` calls it at once.
    """

    def __init__(self, limit: int, relieve: Callable[[], object],
                 later: Callable[[Callable[[], object]], object]) -> None:
        self.limit = limit
        self.used = 0
        self._relieve = relieve
        self._later = later
        self._called = False  # `relieve` will be, soon
        self._common: dict[int, list[int]] = {}  # of each message made for many: how many have it, its size

    def __repr__(self) -> str:
        return f'<Memory, {self.used} of {self.limit} bytes>'

    @property
    def is_tight(self) -> bool:
        """Is so much used that everybody should make do with less?"""
        return self.used > self.limit * TIGHT

    def change(self, size: int) -> None:
        """So many more bytes wait; or less, if it is negative."""
        self.used += size
        if self.used > self.limit and not self._called:
            self._called = True
            self._later(self._act)

    def check(self) -> None:
        """Nothing is half done: close somebody, if that is needed."""
        if self.used > self.limit:
            self._relieve()

    def _act(self) -> None:
        self._called = False
        self.check()

    def hold(self, message: bytes) -> None:
        """One more connection has `message` waiting, which was made once for many: it counts once."""
        entry = self._common.get(id(message))
        if entry is not None:
            entry[0] += 1
        else:
            self._common[id(message)] = [1, len(message)]
            self.change(len(message))

    def let_go(self, message: bytes) -> None:
        """One connection less has it."""
        entry = self._common[id(message)]
        entry[0] -= 1
        if not entry[0]:
            del self._common[id(message)]
            self.change(-entry[1])


class Share:
    """What one connection has waiting: `size` bytes, counted in `memory` too, until `close`."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.size = 0
        self._closed = False

    def __repr__(self) -> str:
        return f'<Share, {self.size} bytes>'

    def add(self, size: int) -> None:
        """So many more bytes; or less, if it is negative."""
        if not self._closed:
            self.size += size
            self.memory.change(size)

    def close(self) -> None:
        """The connection has gone, and all that was its."""
        self.memory.change(-self.size)
        self.size = 0
        self._closed = True


def unlimited() -> Memory:
    """For a connection that nobody else shares the memory with."""
    return Memory(1 << 62, lambda: None, lambda callback: None)
