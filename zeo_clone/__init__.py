"""zeo_clone: many processes share one ZODB.

A server (`server`, or the command ``zeo-clone serve``) wraps a storage; in each client process `client` gives
a ZODB storage, `DB` a database and `connection` a connection on it.
"""
from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

# The packages are bound to the names `client` and `server` here, once, before the functions below take
# over these names; later imports of modules in them do not bind the names again.
import zeo_clone.client
import zeo_clone.server  # noqa: F401
from zeo_clone.client.arguments import arguments, takes
from zeo_clone.version import __version__

if TYPE_CHECKING:
    import ZODB.Connection

    from zeo_clone.client.storage import ClientStorage

__all__ = ['DB', '__version__', 'client', 'connection', 'install_as_ZEO', 'server']

#: Attempts of `DB`.  The second finds the root object that another client has created meanwhile.
MAX_ATTEMPTS = 5


@takes(arguments)
def client(*args: Any, **keywords: Any) -> ClientStorage:
    """A ClientStorage."""
    from zeo_clone.ClientStorage import ClientStorage as Storage
    return Storage(*args, **keywords)


@takes(arguments)
def DB(*args: Any, **keywords: Any) -> ZODB.DB:
    """A ``ZODB.DB`` on a ClientStorage; the storage is closed if DB fails.

    Several clients may start at once on a database that is empty: one creates the root object.
    """
    import ZODB
    from ZODB.POSException import ConflictError
    storage = client(*args, **keywords)
    try:
        for _ in range(MAX_ATTEMPTS - 1):
            with contextlib.suppress(ConflictError):
                return ZODB.DB(storage)
            storage.ping()  # what the other client has committed arrives first
        return ZODB.DB(storage)
    except BaseException:
        storage.close()
        raise


@takes(arguments)
def connection(*args: Any, **keywords: Any) -> ZODB.Connection.Connection:
    """One connection to a database on a ClientStorage; closing it closes the database."""
    db = DB(*args, **keywords)
    try:
        return db.open_then_close_db_when_connection_closes()
    except BaseException:
        db.close()
        raise


def server(path: str | None = None, blob_dir: str | None = None,
           storage_conf: str | None = None, zeo_conf: Any = None, port: int = 0,
           threaded: bool = True, **keywords: Any) -> Any:
    """Start a server for a while, in this process; returns ``(address, stop)``.

    `path` is that of a FileStorage; `storage_conf` the text of a storage section instead; with neither
    the data live in memory.  `zeo_conf` is a dict of the keys of ``<zeo>``, or their text; `port` is that
    on 127.0.0.1 if it names no address, 0 for a free one.  ``stop()`` ends the server and closes its
    storage.  With `threaded` false it runs in a process of its own, which also ends with this one.
    """
    from zeo_clone.embedded import start, start_process
    return (start if threaded else start_process)(path, blob_dir, storage_conf, zeo_conf, port, **keywords)


def install_as_ZEO() -> None:
    """Let ``import ZEO``, ``import ZEO.ClientStorage``, ``%import ZEO`` and ZODB's ``<zeoclient>`` find us.

    Raises ImportError if the real ZEO has been imported already.
    """
    from zeo_clone import alias
    alias.install()
