"""What tests see behind the doors of a storage, a cache and a server: the one place that knows those names.

Whoever wants more of the inside asks here, so that a change of the house is told here and not in forty files.
`tests/test_reach.py` counts who goes by another way.
"""
import contextlib

from ZODB.utils import u64


def manager(storage):
    """Of the links of a ClientStorage."""
    return storage._manager


def link(storage):
    """The link in use; None while there is none."""
    return storage._manager.ready


def engine(storage):
    """All of a storage that a fork must not share."""
    return storage._engine


def loader(storage):
    """What asks the server for records."""
    return storage._loader


def cache(storage):
    """Its cache."""
    return storage._cache


def blobs(storage):
    """Its files of blobs; None without a directory for them."""
    return storage._blobs


def sessions(server):
    """The sessions of a StorageServer, which come and go in its thread."""
    return server._sessions


def loop(server):
    """The loop of a StorageServer."""
    return server._loop


def book(cache):
    """What a ClientCache knows of revisions."""
    return cache._book


def role(channel):
    """Who reads on a ClientChannel."""
    return channel._role


def adapter(storage):
    """RelStorage's adapter, of one of its storages or of one on SQLite as it is served."""
    return storage._adapter


def wrapper(storage):
    """Who a storage of RelStorage on SQLite, as it is served, tells what others wrote."""
    return storage._wrapper


def writing(storage):
    """Of the same: SQLite's connection of the transaction under way."""
    return storage._state.store_connection.connection


def pooled(storage):
    """Of the same: connections that the next commits use."""
    return storage._storage._store_connection_pool._connections


def swap_lock_of_packs(storage, lock):
    """Of the same: `lock` in place of the lock of packs and undos, which is returned."""
    before, storage._packs = storage._packs, lock
    return before


def is_packing(storage):
    """Of the same: is a pack under way?"""
    return storage._packing


@contextlib.contextmanager
def pack_calls(function, tid):
    """RelStorage's packs call `function` when they have removed and committed all before `tid`."""
    from relstorage.adapters.packundo import HistoryPreservingPackUndo
    pack_transaction = HistoryPreservingPackUndo._pack_transaction

    def pack(self, cursor, pack_tid, packed, *rest):
        if packed == u64(tid):
            function()
        pack_transaction(self, cursor, pack_tid, packed, *rest)

    HistoryPreservingPackUndo._pack_transaction = pack
    try:
        yield
    finally:
        HistoryPreservingPackUndo._pack_transaction = pack_transaction
