"""A server for a while: what ``zeo_clone.server`` does.

In: a path or configuration text.  Out: the address and a function that stops it.  The server's loop runs in a
thread of its own, or in a process of its own, which gets what to serve through its stdin, answers once, and
serves until its stdin ends: it cannot outlive its parent.
"""
from __future__ import annotations

import contextlib
import io
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import ZConfig
import ZODB.config
from ZODB.MappingStorage import MappingStorage

from zeo_clone.addresses import parse_address
from zeo_clone.commands.startup import close_storages, create_roots, probe_address
from zeo_clone.configuration import zconfig
from zeo_clone.configuration.filestorage import open_file
from zeo_clone.configuration.places import open_section
from zeo_clone.StorageServer import StorageServer

#: What the process of `start_process` runs.
CHILD = 'from zeo_clone.embedded import serve_parent; serve_parent()'


def start(path: str | None, blob_dir: str | None, storage_conf: str | None, zeo_conf: Any, port: int,
          **keywords: Any) -> tuple[Any, Callable[[], None]]:
    """Serve in a thread; see ``zeo_clone.server``."""
    options = {**_server_options(zeo_conf, port), **keywords}
    address, monitor = options.pop('address'), None
    create_root = options.pop('create_root', True) and not options.get('read_only')
    with contextlib.ExitStack() as opened:
        monitor_options = {'hosts': options.pop('metrics_host', ()),
                           'disconnect': options.pop('metrics_disconnect', False)}
        if (metrics_address := options.pop('metrics_address', None)) is not None:
            monitor = opened.enter_context(contextlib.closing(_monitor(metrics_address, **monitor_options)))
            options['measure'] = True
        probe_address(parse_address(address))  # a mistake shall not make a file
        storage = _storage(path, blob_dir, storage_conf, options.pop('group_commit', True))
        try:
            if create_root:
                create_roots({'1': storage})
            server = StorageServer(address, {'1': storage}, **options)
        except BaseException:
            close_storages({'1': storage})
            raise
        opened.callback(server.close)
        if monitor is not None:
            opened.callback(monitor.stop)
            monitor.begin(server)
        server.start_thread()
        return server.addr, opened.pop_all().close


def start_process(*arguments: Any, **keywords: Any) -> tuple[Any, Callable[[], None]]:
    """Serve in a process of its own: the arguments of `start`, which must be such that pickle knows.

    Raises what `start` raised there.
    """
    what = pickle.dumps((arguments, keywords))  # before there is a process that waits for it
    process = subprocess.Popen([sys.executable, '-c', CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               env={**os.environ, 'PYTHONPATH': os.pathsep.join(filter(None, sys.path))})
    assert process.stdin is not None and process.stdout is not None

    def stop() -> None:
        with process:  # closes its stdin, and waits
            pass

    try:
        process.stdin.write(what)
        process.stdin.flush()
        address, error = pickle.load(process.stdout)
    except (EOFError, OSError):
        stop()
        raise ChildProcessError(f'the server\'s process ended at once (exit code {process.returncode}); what '
                                'it says is on stderr') from None
    except BaseException:
        stop()
        raise
    if error is not None:
        stop()
        raise error
    return address, stop


def serve_parent() -> None:
    """Serve until stdin ends, in the process of `start_process`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C at the terminal is the parent's business
    arguments, keywords = pickle.load(sys.stdin.buffer)
    try:
        address, stop = start(*arguments, **keywords)
        answer: tuple[Any, Exception | None] = address, None
    except Exception as error:
        answer = None, error
    sys.stdout.buffer.write(pickle.dumps(answer))
    sys.stdout.buffer.flush()
    if answer[1] is None:
        sys.stdin.buffer.read()
        stop()


def _monitor(address: Any, hosts: Any, disconnect: bool) -> Any:
    checked = zconfig.metrics_address(address)
    from zeo_clone.monitor.monitor import Monitor  # its library is optional
    return Monitor(checked, hosts=[hosts] if isinstance(hosts, str) else hosts, disconnect=disconnect)


def _storage(path: str | None, blob_dir: str | None, storage_conf: str | None, group_commit: bool) -> Any:
    if storage_conf is not None:
        if path is not None or blob_dir is not None:
            raise ValueError('give storage_conf or path and blob_dir, not both')
        section, _ = ZConfig.loadConfigFile(ZODB.config.getStorageSchema(), io.StringIO(storage_conf))
        return open_section(section.storage)
    if path is not None:
        return open_file(path, group_commit, blob_dir=blob_dir)
    if blob_dir is not None:
        from ZODB.blob import BlobStorage
        return BlobStorage(blob_dir, MappingStorage())
    return MappingStorage()


def _server_options(zeo_conf: Any, port: int) -> dict[str, Any]:
    if isinstance(zeo_conf, str):
        section = zconfig.server_section(zeo_conf, f'127.0.0.1:{port}')
        return {'address': section.address, 'metrics_address': section.metrics_address,
                'metrics_host': section.monitor['hosts'],
                'metrics_disconnect': section.monitor['disconnect'], 'create_root': section.create_root,
                'group_commit': section.group_commit,
                **section.options}
    options = dict(zeo_conf or {})
    return {'address': ('127.0.0.1', port),
            **{key.replace('-', '_'): value for key, value in options.items()}}
