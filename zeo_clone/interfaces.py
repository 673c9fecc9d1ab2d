# mypy: ignore-errors
# zope.interface declarations: methods of an interface have no self.
"""Interfaces and events of zeo_clone.

Floor 0.  `IClientCache` is what a ClientStorage asks of its cache, `IServeable` what a StorageServer asks
of a storage beyond ``ZODB.interfaces.IStorage``.
"""
from __future__ import annotations

from zope.interface import Attribute, Interface

__all__ = ['IAnswersLater', 'IClientCache', 'IHearsMore', 'IServeable', 'StaleCache']


class StaleCache:
    """Event (``ZODB.event.notify``): a client's cache is too old to be verified and will be dropped.

    ``storage`` is the ClientStorage.  Sent before the cache is dropped.
    """

    def __init__(self, storage: object) -> None:
        self.storage = storage


class IClientCache(Interface):
    """A bounded local store of object revisions.

    oid and tid are 8 bytes.  A revision is valid from its ``start_tid`` to, not including, its
    ``end_tid``; an ``end_tid`` of None marks the current revision.  All methods may be called from any
    thread; each is atomic for the others.
    """

    size = Attribute('Upper bound of the space used, in bytes.')

    database = Attribute('Optional, can be set.  Which database it is of: 16 bytes, zeros if unknown.')

    def load(oid):
        """The current revision ``(data, start_tid)``, or None."""

    def loadBefore(oid, before_tid):
        """The revision valid just before `before_tid`: ``(data, start_tid, end_tid or None)`` or None.

        For the current revision ``end_tid`` is None.  None means: not known here, ask the server.
        """

    def store(oid, start_tid, end_tid, data):
        """Keep a revision.  Larger than the cache: ignored.  Already present: nothing changes."""

    def invalidate(oid, tid):
        """`oid` was changed by transaction `tid`: its current revision, if any, ends at `tid`.

        A current revision whose start_tid is `tid` or later stays as it is.  With `tid` None the current
        revision is dropped.
        """

    def invalidateTransaction(tid, oids):
        """`invalidate` for all `oids`, at once for readers."""

    def applyCommit(tid, records):
        """An own commit: ``records`` is a list of ``(oid, data or None)``.

        Each current revision ends at `tid`, then `data`, unless None, becomes the current one.  All at
        once for readers.  Part of the work may be left for `write_late`.
        """

    late = Attribute('Whether `write_late` has anything to do.')

    def write_late():
        """Do the work that `applyCommit` has left; for readers nothing changes."""

    def getLastTid():
        """The last transaction whose effects are in the cache: 8 bytes; ``b'\\0' * 8`` when empty."""

    def setLastTid(tid):
        """Move the last tid forward.  Raises ``ValueError`` if `tid` is less than the present one."""

    def contents():
        """Iterate over ``(oid, start_tid, end_tid or None)`` of all revisions, in no set order."""

    def clear():
        """Forget all revisions and set the last tid to zero.  If that raises, they are forgotten still."""

    def stats():
        """A dict: ``size``, ``used`` and ``memory`` (bytes; of the records that
        are in memory), ``objects``, ``hits``, ``misses``, ``stores``,
        ``evictions``, ``invalidations``, ``hit_bytes``, ``path`` (str or None)."""

    def close():
        """Write what has to be written and release the file.  May be called twice."""

    def __len__():
        """The number of revisions."""


class IServeable(Interface):
    """What a storage may offer the server beyond ``IStorage``."""

    def tpc_transaction():
        """The transaction that is being committed, or None."""

    thread_safe = Attribute('Optional.  True: several threads may load at once, while another one commits.')

    def lastInvalidations(size):
        """Optional.  The last `size` transactions as ``[(tid, [oid, ...]), ...]``, newest first."""


class IAnswersLater(Interface):
    """A storage with a server of its own, of which some things can be asked without waiting.

    ``done(value, error)`` is called once, in any thread, in the order in which the server says things.
    """

    answers_later = Attribute('Does it at all?')

    def load_at_once(oid, tid):
        """`loadBefore`, if it is here; None if the server would have to be asked."""

    def load_later(oid, tid, done):
        """`loadBefore` by the server."""

    def ping_later(done):
        """When it is answered, all has been heard that was committed before."""

    def read_transactions(start, stop, read):
        """``read(transactions)``, from tid `start` to `stop`, in this thread, which waits.

        From the beginning again if the connection breaks meanwhile."""

    def away_s():
        """For how many seconds there has been no server; None while there is one."""

    def voted_tid(transaction):
        """After `tpc_vote`: the tid that it will get; None if that is not known."""


class IHearsMore(Interface):
    """What such a storage calls instead of ``invalidate`` and ``invalidateCache``, if it was registered
    (``registerDB``)."""

    def caught_up(tid, oids):
        """After a time without a server: transactions up to `tid` have written `oids`, it is not known which
        wrote what."""

    def started_over(tid):
        """Anything may have changed, up to `tid`."""
