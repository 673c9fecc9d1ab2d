"""The commit lock of one storage as a queue: who holds it, who is next (L2).

In: who wants the lock and who leaves, for whatever reason.  Out: who has it now.  Members are compared
by identity and never called: the queue knows neither sockets nor threads, nor what a commit is.
"""
from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

Member = TypeVar('Member')


class CommitQueue(Generic[Member]):
    """First come, first served.  Bounded by its members: each can stand in it once."""

    def __init__(self) -> None:
        self.holder: Member | None = None
        self._waiting: deque[Member] = deque()

    def __repr__(self) -> str:
        return f'<CommitQueue {"locked" if self.holder is not None else "free"}, {self.waiting} waiting>'

    @property
    def waiting(self) -> int:
        """How many wait for the lock."""
        return len(self._waiting)

    def in_line(self) -> list[Member]:
        """Who waits for the lock, the next one first."""
        return list(self._waiting)

    def request(self, member: Member) -> bool:
        """Queue `member`; True if it holds the lock now."""
        if member is self.holder or member in self._waiting:
            raise ValueError(f'{member!r} is in the queue already')
        if self.holder is None:
            self.holder = member
            return True
        self._waiting.append(member)
        return False

    def leave(self, member: Member) -> Member | None:
        """Take `member` out: it has finished, or vanished.  The new holder, if that changed, else None.
        """
        if member is self.holder:
            self.holder = self._waiting.popleft() if self._waiting else None
            return self.holder
        if member in self._waiting:
            self._waiting.remove(member)
        return None
