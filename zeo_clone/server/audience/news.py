"""News: messages that all who listen are to get, kept until each of them has them.

In: messages, in their order.  Out: to a listener that has those before a place, the rest in one piece, made
once for all that are at the same place.  It knows no listener: each remembers its own place.  Loop thread
only.
"""
from __future__ import annotations


class News:
    """The messages of one storage."""

    def __init__(self) -> None:
        self.end = 0  # the place of the message that comes next
        self.size = 0  # bytes that are kept
        self._messages: list[bytes] = []  # the last ones before `end`
        self._place = 0  # from here to `end` ...
        self._piece = b''  # ... is this

    def __repr__(self) -> str:
        return f'<News up to {self.end}, {len(self._messages)} kept>'

    def add(self, message: bytes) -> None:
        """The next message."""
        self._messages.append(message)
        self.size += len(message)
        self.end += 1
        self._place = -1

    def since(self, place: int) -> bytes:
        """All messages from `place` on, which is before `end`.  Raises LookupError if one is forgotten."""
        if place != self._place:
            if self.end - place > len(self._messages):
                raise LookupError(f'{self!r} are asked for what came before')
            self._piece, self._place = b''.join(self._messages[place - self.end:]), place
        return self._piece

    def forget(self, place: int) -> None:
        """All have what is before `place`."""
        count = max(0, len(self._messages) - (self.end - place))
        self.size -= sum(map(len, self._messages[:count]))
        del self._messages[:count]
        self._place, self._piece = -1, b''
