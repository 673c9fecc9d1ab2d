"""The keyword arguments of a ClientStorage, checked once and kept together.

In: what an application or a configuration gives.  Out: an `Options` object, or one clear error.
"""
from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from zeo_clone.addresses import Address, format_address, parse_addresses
from zeo_clone.client.arguments import SIGNATURE
from zeo_clone.client.heartbeat import SHORTEST_S
from zeo_clone.loop.tls import check_client
from zeo_clone.zrpc.messages import clean_label
from zeo_clone.zrpc.offers import MAX_NAME


@dataclass(frozen=True)
class Options:
    """What a ClientStorage was asked to be.  Times in seconds, sizes in bytes."""

    addresses: tuple[Address, ...]
    storage: str
    cache_size: int
    name: str
    wait: bool
    wait_timeout_s: float
    max_poll_s: float
    read_only: bool
    read_only_fallback: bool
    client_label: str | None
    server_sync: bool
    spread: bool
    cache: Any
    cache_may_be_temporary: bool  # if another process has it
    drop_newer_cache: bool
    ssl: Any
    ssl_server_hostname: str | None
    io_thread: bool
    heartbeat_s: float | None
    blob_dir: str | None
    shared_blob_dir: bool
    blob_cache_size: int | None
    blob_cache_size_check: int
    blob_progress: Any


def client_addresses(addr: Any) -> tuple[Address, ...]:
    """Where to look for servers.  Raises ValueError.

    An omitted host means this machine, where a server would listen on all interfaces.
    """
    return tuple(one if isinstance(one, str) else (one[0] or 'localhost', one[1])
                 for one in parse_addresses(addr))


def cache_path(cache: Any, client: str | None, var: str | None, storage: str) -> Any:
    """The cache object or the path of the cache file; None for a temporary one."""
    if cache is not None:
        return cache
    if client is None:
        return None
    return os.path.join(var or '', f'{client}-{storage}.zec')


#: Longer times are as good as no limit; what waits takes no more, in seconds.
FOREVER_S = 1e9


def _or_default(given: dict[str, Any], name: str) -> Any:
    """None is the default."""
    return SIGNATURE.parameters[name].default if given[name] is None else given[name]


def _seconds(name: str, value: Any) -> float:
    """A time of `FOREVER_S` at most."""
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = -1.0
    if not seconds >= 0:
        raise ValueError(f'{name} is {value!r:.100}; it must be a number of seconds, 0 or more')
    return min(seconds, FOREVER_S)


def _whole(name: str, value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = -1
    if number < 0:
        raise ValueError(f'{name} is {value!r:.100}; it must be a whole number, 0 or more')
    return number


def _heartbeat(value: Any) -> float | None:
    seconds = _seconds('heartbeat', value or 0)
    if 0 < seconds < SHORTEST_S:
        raise ValueError(f'heartbeat is {value!r:.100}; it must be {SHORTEST_S:g} s or more, or 0: never')
    return seconds or None


def _storage_name(storage: Any) -> str:
    name = str(storage)
    if len(name) > MAX_NAME or not _is_text(name):
        raise ValueError(f'the name of the storage is {name!r:.100}; a name is text of at most {MAX_NAME} '
                         'characters')
    return name


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half characters
        return False
    return True


def _label(label: Any) -> str | None:
    """What this client calls itself, cut as a server would."""
    if label is None:
        return None
    return clean_label(label.decode('utf-8', 'replace') if isinstance(label, bytes) else str(label))


def check_ssl(context: Any, hostname: Any, addresses: tuple[Address, ...]) -> None:
    """Would it work?  Otherwise each attempt to connect would fail, for ever.  Raises TypeError, ValueError.
    """
    if context is None:
        return
    if not hasattr(context, 'wrap_bio'):
        raise TypeError(f'ssl is {context!r:.100}; it must be an ssl.SSLContext')
    for address in addresses:
        host = None if isinstance(address, str) else address[0]
        try:
            check_client(context, hostname or host)
        except ValueError as error:
            raise ValueError(f'no TLS connection to {format_address(address)} is possible: {error}; look at '
                             'ssl and ssl_server_hostname') from error


def make_options(given: dict[str, Any]) -> Options:
    """Check what a ClientStorage was given, as `arguments` names it.  Raises TypeError or ValueError."""
    size = _whole('cache_size', _or_default(given, 'cache_size'))
    timeout = _seconds('wait_timeout', _or_default(given, 'wait_timeout'))
    name_of_storage = _storage_name(given['storage'])
    blob_cache_size = given['blob_cache_size']
    addresses = client_addresses(given['addr'])
    check_ssl(given['ssl'], given['ssl_server_hostname'], addresses)
    if given['shared_blob_dir'] and given['blob_dir'] is None:
        raise ValueError('shared_blob_dir is given without blob_dir: name the directory')
    longest = _seconds('max_disconnect_poll', given['max_disconnect_poll'] or given['min_disconnect_poll'])
    return Options(
        addresses=addresses, storage=name_of_storage, cache_size=size, name=given['name'],
        wait=bool(given['wait']), wait_timeout_s=timeout, max_poll_s=max(0.05, longest),
        read_only=bool(given['read_only']), read_only_fallback=bool(given['read_only_fallback']),
        client_label=_label(given['client_label']), server_sync=bool(given['server_sync']),
        spread=bool(given['spread']),
        cache=cache_path(given['cache'], given['client'], given['var'], name_of_storage),
        cache_may_be_temporary=given['cache'] is None, drop_newer_cache=bool(given['drop_newer_cache']),
        ssl=given['ssl'], ssl_server_hostname=given['ssl_server_hostname'],
        io_thread=bool(given['io_thread']), heartbeat_s=_heartbeat(given['heartbeat']),
        blob_dir=given['blob_dir'], shared_blob_dir=bool(given['shared_blob_dir']),
        blob_cache_size=None if blob_cache_size is None else _whole('blob_cache_size', blob_cache_size),
        blob_cache_size_check=_whole('blob_cache_size_check', given['blob_cache_size_check']),
        blob_progress=given['blob_progress'])
