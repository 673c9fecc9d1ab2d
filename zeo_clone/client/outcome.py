"""After a lost reply to ``tpc_finish``, or an error instead of one: was the transaction committed (C11)?

Runs in the application's thread, which waits for the next connection as long as calls do.  Servers with
``commit_outcome`` are asked.  One that was restarted meanwhile remembers nothing, but at the vote it has
told the tid that the transaction would get, and that is looked for in the storage.  A server that told no
tid, as real ZEO, is asked for the records: one that is what it was before proves that nothing was
committed; that something was cannot be proven, because somebody else may have written the same.  All this
with the commit lock in hand, so that nothing of the old connection can still be under way.

"Committed" may be proven anywhere, "not committed" only where the transaction was: another server may be a
replica that lags.  The last resort is `CommitOutcomeUnknown`.
"""
from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

from transaction.interfaces import TransientError
from ZODB.POSException import POSKeyError
from ZODB.utils import p64, u64

from zeo_clone.client.link import Identity, Link
from zeo_clone.client.notices import check_revision, is_tid
from zeo_clone.Exceptions import ClientDisconnected, CommitOutcomeUnknown, UnrecognizedResult
from zeo_clone.loop.runtime import Runtime
from zeo_clone.zrpc.channel.client import ClientChannel
from zeo_clone.zrpc.offers import COMMIT_OUTCOME

log = logging.getLogger(__name__)

#: Oids that are compared with the server's; one is enough if nothing was committed.
MAX_COMPARED = 10


COMMITTED, NOT_COMMITTED, UNKNOWN = 'committed', 'not committed', 'unknown'
#: One of them, and the tid if it is the first.
Outcome = tuple[str, bytes | None]


class Doubtful(NamedTuple):
    """A transaction: its number, the link on which it was, the tid that it has if it is committed (None if
    the server has not said), and oids that it wrote, with the serial before it (None if only the server
    knows)."""

    number: int
    link: Link
    tid: bytes | None
    bases: dict[bytes, bytes | None]


class Inquiry:
    """Finds out what became of a transaction whose end is not known."""

    def __init__(self, doubtful: Doubtful, identity: Identity, get_link: Callable[[float], Link],
                 runtime: Runtime, timeout_s: float) -> None:
        self._doubtful = doubtful
        self._identity = identity
        self._get_link = get_link
        self._runtime = runtime
        self._deadline = runtime.monotonic() + timeout_s

    def find_out(self, lost: Exception) -> bytes:
        """The tid if it was committed.  Raises `ClientDisconnected` if it was not, for sure, and else,
        whatever happens, `CommitOutcomeUnknown`."""
        what = (f'there was {"no reply" if isinstance(lost, ClientDisconnected) else "an error"} while the '
                f'transaction was being committed')
        doubt = CommitOutcomeUnknown(f'{what}: it may or may not be committed. Look at the data before you '
                                     f'repeat it ({lost})')
        while True:
            try:
                link = self._get_link(max(0.0, self._deadline - self._runtime.monotonic()))
            except Exception:
                raise doubt from lost
            try:
                return self._ask(link, doubt)
            except NotCommitted as error:
                raise NotCommitted(f'{what}; {error} ({lost})') from lost
            except CommitOutcomeUnknown:
                raise doubt from lost
            except Exception as error:
                if link.channel.fate is not None:
                    continue
                # It was not the connection.
                if isinstance(error, TransientError):  # its database is away, say: another may know
                    link.fail(error)
                else:
                    log.warning('the outcome of a transaction could not be found out: %s', error)
                    raise doubt from lost

    def _ask(self, link: Link, doubt: CommitOutcomeUnknown) -> bytes:
        state, tid = UNKNOWN, None
        if link.offers(COMMIT_OUTCOME):
            state, tid = check_outcome(link.channel.call(COMMIT_OUTCOME, (self._doubtful.number,)))
        if state == UNKNOWN and self._doubtful.bases:
            state, tid = self._look(link)
        if tid is not None:
            log.info('transaction %s: the reply was lost, but it is committed', tid.hex())
            return tid
        if state == NOT_COMMITTED and not link.read_only and self._was_at(link):
            raise NotCommitted('nothing was committed, it may be repeated')
        raise doubt

    def _was_at(self, link: Link) -> bool:
        """Does `link` lead to where the transaction was, and not perhaps to a replica that lags?"""
        before = self._doubtful.link
        instance = link.info.get('instance')
        return link.target == before.target or (
            instance is not None and instance == before.info.get('instance'))

    def _look(self, link: Link) -> Outcome:
        """What does the storage say?"""
        channel = link.channel
        compare = self._find_records if self._doubtful.tid is None else self._find_transaction
        try:
            if link.read_only:
                return compare(channel)
            number = self._identity.next_number()
            channel.send('tpc_begin', (number, b'', b'', {}, None, ' '))
            try:
                channel.call('vote', (number,))
                return compare(channel)  # now the old transaction is over, so or so
            finally:
                self._end(channel, number)
        except ClientDisconnected:
            raise
        except Exception as error:
            log.warning('the outcome of a transaction could not be found out: %s', error)
            return UNKNOWN, None

    @staticmethod
    def _end(channel: ClientChannel, number: int) -> None:
        try:
            channel.call('tpc_abort', (number,))
        except Exception as error:
            log.warning('looking for the outcome of a transaction: %s', error)

    def _find_records(self, channel: ClientChannel) -> Outcome:
        """Is one of the written objects what it was before?  Then nothing was committed."""
        for oid, base in self._doubtful.bases.items():
            if base is not None and current_serial(channel, oid) == base:
                return NOT_COMMITTED, None
        return UNKNOWN, None

    def _find_transaction(self, channel: ClientChannel) -> Outcome:
        """Is there a transaction with its tid?"""
        tid, bases = self._doubtful.tid, self._doubtful.bases
        iid = channel.call('iterator_start', (tid, tid))
        found = channel.call('iterator_next', (iid,))
        if type(found) is tuple and found[:1] == (tid,):
            channel.send('iterator_gc', ([iid],))
            return COMMITTED, tid
        assert tid is not None
        # A pack could have removed it, but only together with all that its objects were before, and only
        # after a later transaction.
        # A FileStorage that was killed may call its tid the last one all the same.
        if found is None and (channel.call('lastTransaction', ()) <= tid
                              or any(is_older(channel, oid, tid) for oid in bases)):
            return NOT_COMMITTED, None
        return UNKNOWN, None


def current_serial(channel: ClientChannel, oid: bytes) -> bytes:
    """The serial of the current record of `oid`; z64 if there is none."""
    try:
        serial = channel.call('getTid', (oid,))
    except POSKeyError:
        return bytes(8)
    if is_tid(serial):
        return serial  # type: ignore[no-any-return]
    raise UnrecognizedResult('the server answered getTid with something that is no tid')


def is_older(channel: ClientChannel, oid: bytes, tid: bytes) -> bool:
    """Was the state of `oid` right after the time of `tid` written before that?

    One that is not there proves nothing: a pack may have removed a new object with its transaction.
    """
    try:
        revision = check_revision(channel.call('loadBefore', (oid, p64(u64(tid) + 1))))
    except POSKeyError:
        return False
    return revision is not None and revision[1] < tid


class NotCommitted(ClientDisconnected):
    """Nothing was committed, for sure."""


def check_outcome(value: Any) -> Outcome:
    """The result of ``commit_outcome``."""
    if type(value) is tuple and len(value) == 2 and type(value[0]) is str:
        state, tid = value
        if is_tid(tid) if state == COMMITTED else tid is None:
            return state, tid
    raise UnrecognizedResult('the server answered commit_outcome with something else')
