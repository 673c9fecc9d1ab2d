"""After a lost reply to ``tpc_finish``: was the transaction committed (C11)?

Runs in the application's thread, which waits for the next connection as long as calls do.  Servers with
``commit_outcome`` are asked.  With others, and with one that was restarted meanwhile, the records are
looked at: with the commit lock in hand, so that nothing of the old connection can still be under way.
There "nothing was committed" can be proven; "it was" cannot, because somebody else may have written the
same, so the last resort is `CommitOutcomeUnknown`.
"""
from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ZODB.POSException import POSKeyError

from zeo_clone.client.identity import Identity
from zeo_clone.client.link import Link
from zeo_clone.client.notices import is_tid
from zeo_clone.Exceptions import ClientDisconnected, CommitOutcomeUnknown, UnrecognizedResult
from zeo_clone.loop.runtime import Runtime

log = logging.getLogger(__name__)

#: Oids that are compared with the server's; one is enough if nothing was committed.
MAX_COMPARED = 10


class Inquiry:
    """About transaction `number`; ``bases``: for oids that it wrote, the serial before it."""

    def __init__(self, number: int, bases: dict[bytes, bytes], identity: Identity,
                 get_link: Callable[[float], Link], runtime: Runtime, timeout_s: float) -> None:
        self._number = number
        self._bases = bases
        self._identity = identity
        self._get_link = get_link
        self._runtime = runtime
        self._deadline = runtime.monotonic() + timeout_s

    def find_out(self, lost: Exception) -> bytes:
        """The tid if it was committed.  Raises `ClientDisconnected` if it was not, for sure, and
        `CommitOutcomeUnknown`."""
        doubt = CommitOutcomeUnknown(
            f'the connection was lost while the transaction was being committed: it may or may not be '
            f'committed. Look at the data before you repeat it ({lost})')
        while True:
            try:
                link = self._get_link(max(0.0, self._deadline - self._runtime.monotonic()))
            except ClientDisconnected:
                raise doubt from lost
            try:
                return self._ask(link, doubt)
            except ClientDisconnected as error:
                if isinstance(error, NotCommitted):
                    raise error from lost
                if link.channel is None or link.channel.fate is None:
                    raise doubt from lost  # it was not the connection

    def _ask(self, link: Link, doubt: CommitOutcomeUnknown) -> bytes:
        assert link.channel is not None
        state: Any = 'unknown'
        if link.offers('commit_outcome'):
            state, tid = check_outcome(link.channel.call('commit_outcome', (self._number,)))
            if state == 'committed':
                log.info('transaction %s: the reply was lost, but it is committed', tid.hex())
                return tid
        if state == 'not committed' or self._is_unchanged(link):
            raise NotCommitted('the connection was lost while the transaction was being committed; '
                               'nothing was committed, it may be repeated')
        raise doubt

    def _is_unchanged(self, link: Link) -> bool:
        """Is one of the written objects what it was before?  Then nothing was committed."""
        if not self._bases or link.read_only or link.channel is None:
            return False
        channel, number = link.channel, self._identity.next_number()
        channel.send('tpc_begin', (number, b'', b'', {}, None, ' '))
        try:
            channel.call('vote', (number,))  # now the old transaction is over, so or so
            for oid, base in list(self._bases.items())[:MAX_COMPARED]:
                try:
                    tid = channel.call('getTid', (oid,))
                except POSKeyError:
                    tid = bytes(8)
                if is_tid(tid) and tid == base:
                    return True
            return False
        except ClientDisconnected:
            raise
        except Exception as error:
            log.warning('the outcome of a transaction could not be found out: %s', error)
            return False
        finally:
            try:
                channel.call('tpc_abort', (number,))
            except Exception as error:
                log.warning('looking for the outcome of a transaction: %s', error)


class NotCommitted(ClientDisconnected):
    """The connection was lost, and nothing was committed."""


def check_outcome(value: Any) -> tuple[str, bytes]:
    """The result of ``commit_outcome``."""
    if type(value) is tuple and len(value) == 2 and type(value[0]) is str:
        state, tid = value
        if is_tid(tid) if state == 'committed' else tid is None:
            return state, tid
    raise UnrecognizedResult('the server answered commit_outcome with something else')
