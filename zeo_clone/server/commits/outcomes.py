"""Outcomes: what became of the transactions whose reply a client may have lost (C11).

A client says who it is by a token that nobody can guess, and numbers its transactions.  Per client the last
committed one is remembered; that is enough, since a client has one at a time.  Loop thread only; gone when
the server ends.
"""
from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

#: Clients without a connection that are remembered; each takes some 300 bytes.
MAX_IDLE = 10_000

COMMITTED, NOT_COMMITTED, UNKNOWN = 'committed', 'not committed', 'unknown'

Member = TypeVar('Member')


class Known(Generic[Member]):
    """What is known of one client."""

    __slots__ = ('floor', 'member', 'number', 'refused', 'tid')

    def __init__(self, floor: int) -> None:
        self.floor = floor  # of transactions up to this number only `number` is known
        self.member: Member | None = None  # the client's session
        self.number = 0  # the last transaction that was committed, if it was
        self.tid: bytes | None = None  # None: the storage failed in it
        self.refused = 0  # the last transaction, if it is certain that it was not committed


class Outcomes(Generic[Member]):
    """The outcomes of one storage."""

    def __init__(self) -> None:
        self._live: dict[bytes, Known[Member]] = {}
        self._idle: OrderedDict[bytes, Known[Member]] = OrderedDict()  # gone longest first

    def arrive(self, token: bytes, number: int, member: Member) -> Member | None:
        """The client `token`, whose last transaction so far was `number`, is now `member`.

        Returns what it was before, if that is still there: to be closed, so that nothing in flight can
        be committed any more.
        """
        known = self._live.get(token) or self._idle.pop(token, None) or Known(number)
        self._live[token] = known
        before, known.member = known.member, member
        return before

    def leave(self, token: bytes, member: Member) -> None:
        """`member` has gone.  Nothing if the client is another one by now."""
        known = self._live.get(token)
        if known is None or known.member is not member:
            return
        known.member = None
        self._idle[token] = self._live.pop(token)
        while len(self._idle) > MAX_IDLE:
            self._idle.popitem(last=False)

    def note(self, token: bytes, number: int, tid: bytes | None) -> None:
        """Transaction `number` was committed as `tid`; None: the storage failed when it was asked to.

        Perhaps the client has gone meanwhile: it will ask.
        """
        known = self._live.get(token) or self._idle.get(token)
        if known is not None:
            known.number, known.tid, known.refused = number, tid, 0

    def withdraw(self, token: bytes, number: int) -> None:
        """After `note` with None: transaction `number` was not committed."""
        known = self._live.get(token) or self._idle.get(token)
        if known is not None and known.number == number:
            known.number, known.tid, known.refused = 0, None, number

    def refused(self, token: bytes, number: int) -> bool:
        """Has transaction `number`, the last one, come to nothing here?  Then nobody else need be asked."""
        known = self._live.get(token)
        return known is not None and 0 < number == known.refused

    def find(self, token: bytes, number: int) -> tuple[str, bytes | None]:
        """What became of transaction `number`, and its tid if it was committed."""
        known = self._live.get(token)
        if known is not None and number == known.number:
            return (UNKNOWN, None) if known.tid is None else (COMMITTED, known.tid)
        if known is not None and number > max(known.number, known.floor):
            return NOT_COMMITTED, None
        return UNKNOWN, None
