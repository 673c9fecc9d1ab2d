"""What `server_status` says beyond counters: who is connected, who holds the commit lock, who waits.

In: sessions and transactors, which are only looked at.  Out: dicts and lists of texts and numbers, as JSON
and the protocol can carry them, with bounds: a health check must stay cheap.  Any thread: the containers are
copied before they are walked, and a number that another thread changes meanwhile is harmless.
"""
from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from zeo_clone.server.commits.transactor import Transactor

#: So many clients are described, those that came first; ``connections`` tells how many there are.
MAX_CLIENTS = 100
#: So many of those that wait for the commit lock are named, the next ones first.
MAX_WAITING = 20
#: Characters of a transaction's user and description.
MAX_TEXT = 100


class Described(Protocol):
    """A session, as far as it is described."""

    def describe(self) -> dict[str, Any]:
        """Its address, label and numbers."""

    @property
    def traffic(self) -> tuple[int, int, int]:
        """Bytes sent, received, and waiting to be sent."""


def clients(sessions: Iterable[Described]) -> list[dict[str, Any]]:
    """The dict of each of the first `MAX_CLIENTS` sessions; of more, first those for whom something waits."""
    chosen = list(sessions)
    if len(chosen) > MAX_CLIENTS:
        chosen.sort(key=lambda session: not session.traffic[2])
    return [session.describe() for session in chosen[:MAX_CLIENTS]]


def traffic(sessions: Iterable[Described], sent: int, received: int) -> tuple[int, int]:
    """Bytes sent and received, of all sessions and of those before."""
    for session in list(sessions):
        more_sent, more_received, _ = session.traffic
        sent += more_sent
        received += more_received
    return sent, received


def lock_holder(transactor: Transactor | None, held_s: float) -> dict[str, Any] | None:
    """Who holds the commit lock, for how many seconds, with what transaction; None if it is free."""
    meta = None if transactor is None else transactor.meta
    if transactor is None or meta is None:
        return None
    return {'client': transactor.client.name, 'seconds': round(held_s, 3), 'user': _text(meta.user),
            'description': _text(meta.description), 'phase': transactor.phase_name}


def waiting_clients(transactors: list[Transactor]) -> list[str]:
    """The names of those that wait for the commit lock, the next one first."""
    return [transactor.client.name for transactor in transactors[:MAX_WAITING]]


def _text(value: str | bytes) -> str:
    text = value[:MAX_TEXT * 4].decode(errors='replace') if isinstance(value, bytes) else value
    return text[:MAX_TEXT]
