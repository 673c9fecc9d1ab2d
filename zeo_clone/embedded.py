"""A server in the caller's own process: what ``zeo_clone.server`` does.

In: a path or configuration text.  Out: the address and a function that stops it.  The server's loop runs
in a thread of its own, or in the caller's.
"""
from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import ZODB.config
from ZODB.FileStorage import FileStorage
from ZODB.MappingStorage import MappingStorage

from zeo_clone import zconfig
from zeo_clone.startup import create_roots
from zeo_clone.StorageServer import StorageServer


def start(path: str | None, blob_dir: str | None, storage_conf: str | None, zeo_conf: Any, port: int,
          threaded: bool, **keywords: Any) -> tuple[Any, Callable[[], None]] | None:
    """See ``zeo_clone.server``."""
    options = {**_server_options(zeo_conf, port), **keywords}
    address, monitor = options.pop('address'), None
    create_root = options.pop('create_root', True) and not options.get('read_only')
    with contextlib.ExitStack() as opened:
        if (metrics_address := options.pop('metrics_address', None)) is not None:
            monitor = opened.enter_context(contextlib.closing(_monitor(metrics_address)))
            options['measure'] = True
        storage = _storage(path, blob_dir, storage_conf)
        try:
            if create_root:
                create_roots({'1': storage})
            server = StorageServer(address, {'1': storage}, **options)
        except BaseException:
            storage.close()
            raise
        opened.callback(server.close)
        if monitor is not None:
            opened.callback(monitor.stop)
            monitor.begin(server)
        if threaded:
            server.start_thread()
            return server.addr, opened.pop_all().close
        server.loop()
    return None


def _monitor(address: Any) -> Any:
    checked = zconfig.metrics_address(address)
    from zeo_clone.monitor.monitor import Monitor  # its library is optional
    return Monitor(checked)


def _storage(path: str | None, blob_dir: str | None, storage_conf: str | None) -> Any:
    if storage_conf is not None:
        if path is not None or blob_dir is not None:
            raise ValueError('give storage_conf or path and blob_dir, not both')
        return ZODB.config.storageFromString(storage_conf)
    if path is not None:
        return FileStorage(path, blob_dir=blob_dir)
    if blob_dir is not None:
        from ZODB.blob import BlobStorage
        return BlobStorage(blob_dir, MappingStorage())
    return MappingStorage()


def _server_options(zeo_conf: Any, port: int) -> dict[str, Any]:
    if isinstance(zeo_conf, str):
        section = zconfig.server_section(zeo_conf, f'127.0.0.1:{port}')
        return {'address': section.address, 'metrics_address': section.metrics_address,
                'create_root': section.create_root, **section.options}
    options = dict(zeo_conf or {})
    return {'address': ('127.0.0.1', port),
            **{key.replace('-', '_'): value for key, value in options.items()}}
