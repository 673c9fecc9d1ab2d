"""Which storages are RelStorages that can be served, and whether what a section names can be reached.

In: a storage that is open, or what RelStorage's section of a configuration becomes.  Out: of which kind it
is; ValueError for one of which clients would be told wrong things.  Runs in the thread that starts a server.
"""
from __future__ import annotations

import os
from importlib import metadata
from typing import Any
from urllib.parse import quote

from zeo_clone.loop.runtime import REAL

#: The versions of RelStorage whose private names are known in this room.
KNOWN = ('4.3',)
#: The adapters that are known, of which database, and with which driver.
POSTGRESQL, SQLITE = 'PostgreSQLAdapter', 'Sqlite3Adapter'
DRIVERS = {POSTGRESQL: ('PostgreSQL', 'psycopg2'), SQLITE: ('SQLite', 'sqlite3')}
#: The file of a RelStorage on SQLite, in its directory.
MAIN = 'main.sqlite3'
TRY = '''
SELECT current_setting('server_version'), current_database(), to_regclass('object_state') IS NOT NULL,
    to_regclass('current_object') IS NOT NULL
'''
TRY_SQLITE = "SELECT sum(name = 'object_state'), sum(name = 'current_object') FROM sqlite_master"


def is_database(storage: Any) -> bool:
    """Is it a RelStorage that can be served with others beside?  Raises ValueError for one that cannot be
    served at all."""
    if _adapter_of(storage) != POSTGRESQL:
        return False
    _check_blobs(storage._options.shared_blob_dir)
    return True


def is_alone(storage: Any) -> bool:
    """Is it a RelStorage that one server can have for itself?  Raises ValueError as `is_database` does."""
    return _adapter_of(storage) == SQLITE


def _adapter_of(storage: Any) -> str | None:
    """Of which kind a RelStorage is; None for another storage."""
    kind = type(storage)
    if (kind.__module__, kind.__qualname__) != ('relstorage.storage', 'RelStorage'):
        return None
    version = metadata.version('RelStorage')
    if '.'.join(version.split('.')[:2]) not in KNOWN:
        raise ValueError(f'this server knows RelStorage {" and ".join(KNOWN)}, not {version}: install one '
                         f"that it knows (pip install 'zeo_clone[postgresql]')")
    adapter = storage._adapter
    return _check(type(adapter).__name__, adapter.driver.__name__)


def _check(name: str, driver: str | None) -> str:
    """The adapter `name`.  Raises ValueError if it is not known.

    Served as one object, as other storages are, RelStorage shows one snapshot, calls conflicts what nobody
    tries again, and never hears of others."""
    if name not in DRIVERS:
        raise ValueError(f'this server knows RelStorage on PostgreSQL and on SQLite (one server), and not '
                         f'{name}, of which it would tell clients wrong things: copy it into a FileStorage '
                         f'or to PostgreSQL with zodbconvert, or have the clients open it themselves')
    known_name, known = DRIVERS[name]
    if driver not in (None, 'auto', known):
        raise ValueError(f'this server knows {known_name} with the driver {known}, not '
                         f'{driver}: give the section of the database the line "driver {known}"')
    return name


def _adapter_of_section(factory: Any) -> str | None:
    """Of which kind RelStorage's section of a configuration is; None for another section."""
    kind = type(factory)
    if (kind.__module__, kind.__qualname__) != ('relstorage.config', 'RelStorageFactory'):
        return None
    return type(factory.config.adapter).__qualname__.removesuffix('Factory')


def describe_section(factory: Any) -> str | None:
    """What RelStorage's section stands for, for people, without passwords; None if it is another section."""
    adapter = _adapter_of_section(factory)
    if adapter is None:
        return None
    where = f' in {factory.config.adapter.config.data_dir}' if adapter == SQLITE else ''
    return f'RelStorage on {DRIVERS[adapter][0] if adapter in DRIVERS else adapter}{where}'


def _check_blobs(are_shared: bool) -> None:
    """Raises ValueError if blobs of a database that has other servers beside are not in it."""
    if are_shared:
        raise ValueError('its blobs are in a directory that is shared (shared-blob-dir true), and this '
                         'server serves only those that are in the database: set shared-blob-dir false')


def is_section(factory: Any) -> bool:
    """Is it what RelStorage's section becomes, of a database with other servers beside?"""
    return _adapter_of_section(factory) not in (None, SQLITE)


def try_section(factory: Any) -> str | None:
    """What RelStorage's section of a configuration leads to, in a line; None if it is another section.

    Raises ValueError for one that cannot be served, and what the driver raises.  Nothing is made there.
    """
    adapter = _adapter_of_section(factory)
    if adapter is None:
        return None
    section = factory.config.adapter.config
    if _check(adapter, section.driver) == SQLITE:
        answers, name, row = _try_sqlite(os.path.join(section.data_dir, MAIN))
    else:
        _check_blobs(factory.config.shared_blob_dir)
        answers, name, row = _try_postgresql(section.dsn)
    found = 'nothing of RelStorage yet, which is made at the first start'
    has_objects, has_history = row
    if has_objects:
        found = f'a RelStorage {"with" if has_history else "without"} history'
        if bool(has_history) is not bool(factory.config.keep_history):
            raise ValueError(f'the database {name} has {found}, and keep-history says something else: change '
                             f'that')
    return f'{answers}; the database {name} has {found}'


def _try_postgresql(dsn: str) -> tuple[str, str, Any]:
    import psycopg2
    connection = psycopg2.connect(dsn, connect_timeout=10)
    try:
        with connection.cursor() as cursor:
            cursor.execute(TRY)
            version, name, *row = cursor.fetchone()
    finally:
        connection.close()
    return f'PostgreSQL {version} answers', name, row


def _try_sqlite(path: str) -> tuple[str, str, Any]:
    import sqlite3
    row = 0, 0
    if REAL.exists(path):
        connection = sqlite3.connect(f'file:{quote(path)}?mode=ro', uri=True)
        try:
            row = connection.execute(TRY_SQLITE).fetchone()
        finally:
            connection.close()
    return f'SQLite {sqlite3.sqlite_version}, for one server', path, row
