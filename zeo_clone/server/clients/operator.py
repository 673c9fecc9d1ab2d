"""The operator's hand: which client is to be disconnected, and by whom (zeo-status --disconnect, the page).

In: what an operator says, from whom it comes; the sessions, which are only looked at.  Out: one session, or
`NotDone` with a sentence for the operator.  Never more than one, and none if it is not clear which.  Loop
thread only.
"""
from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from zeo_clone.zrpc.messages import clean_label

if TYPE_CHECKING:
    from zeo_clone.server.clients.member import Member
    from zeo_clone.server.served import ServedStorage

#: Who is meant by this word: whoever holds the commit lock.
HOLDER = 'holder'
#: Clients that are listed when it is not clear who is meant.
MAX_LISTED = 20


class NotDone(Exception):
    """Nothing was done; a sentence that says why."""


class Wish(NamedTuple):
    """`client`: an address or a label, as the status shows them, or `HOLDER`; `storage`: only there, None:
    anywhere.
    """

    client: str
    storage: str | None = None


def read_wish(request: Mapping[str, Any]) -> tuple[Wish, str]:
    """What a peer has sent: the wish, and what its user is called, as far as one may believe it."""
    client, storage, user = (request.get(key) for key in ('disconnect', 'storage', 'by'))
    if type(client) is not str or not client or type(storage) not in (str, type(None)):
        raise NotDone('this server disconnects a client: send {"disconnect": "ADDRESS or LABEL"}')
    return Wish(client, storage), clean_label(user) if type(user) is str else 'nobody'


def find(served: Mapping[str, ServedStorage], wish: Wish) -> Member:
    """The one client that is meant.  Raises `NotDone`."""
    if wish.storage is not None and wish.storage not in served:
        raise NotDone(f'there is no storage {wish.storage!r}; there are {", ".join(map(repr, served))}')
    among = served.values() if wish.storage is None else [served[wish.storage]]
    found: list[tuple[str, Any]] = []
    for storage in among:
        if wish.client != HOLDER:
            found += [(storage.name, one) for one in storage.audience.present()
                      if _is_meant(one, wish.client)]
        elif storage.lock.holding_client is not None:
            found.append((storage.name, storage.lock.holding_client))
    if not found:
        raise NotDone('nobody holds the commit lock' if wish.client == HOLDER else
                      f'no client has the address or label {wish.client!r}')
    if len(found) > 1:
        listed = ', '.join(f'{session.name} (storage {name!r})' for name, session in found[:MAX_LISTED])
        more = f' and {len(found) - MAX_LISTED} more' if len(found) > MAX_LISTED else ''
        if len({session.name for _, session in found}) < len(found):
            more += '; give those that look alike labels of their own (client_label)'
        raise NotDone(f'{len(found)} clients fit {wish.client!r}, and nothing was done: {listed}{more}')
    member: Member = found[0][1]
    return member


def _is_meant(session: Any, client: str) -> bool:
    described = session.describe()
    return client in (described['address'], described['label'], session.name)
