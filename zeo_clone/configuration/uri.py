"""``zeo-clone://host:port/?storage=1&wait_timeout=5``: storages by URI, for zodburi.

In: a URI with the query keys of zodburi's ``zeo://``, and those for TLS.  Out: a function that makes a
ClientStorage, and what is left of the query, which zodburi understands as options of the database.  Opens
nothing; needs no zodburi.
"""
from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from zeo_clone.addresses import MAX_PORT
from zeo_clone.configuration import zconfig

SCHEME = 'zeo-clone'
#: Where zodburi looks for a server if its URI names no port.
DEFAULT_PORT = 9991
TRUE, FALSE = ('true', 'yes', 'on'), ('false', 'no', 'off')


def number(text: str) -> int:
    """A whole number, or true, yes, on, false, no, off as 1 and 0.  Raises ``ValueError``."""
    if text.lower() in (*TRUE, *FALSE):
        return int(text.lower() in TRUE)
    try:
        return int(text)
    except ValueError:
        raise ValueError(f'{text!r} is neither a whole number nor {", ".join((*TRUE, *FALSE))}') from None


#: Keys of the query: what makes a value of the text.
CLIENT_KEYS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(('storage', 'name', 'client', 'var', 'username', 'password', 'realm', 'blob_dir',
                     'client_label', 'cache'), str),
    **dict.fromkeys(('min_disconnect_poll', 'max_disconnect_poll', 'wait', 'wait_timeout', 'read_only',
                     'read_only_fallback', 'shared_blob_dir', 'drop_cache_rather_verify', 'server_sync',
                     'spread',
                     'blob_cache_size_check', 'heartbeat', 'drop_newer_cache'), number),
    **dict.fromkeys(('cache_size', 'blob_cache_size'), zconfig.byte_size),
}
#: Keys that are not passed on to ClientStorage as they are.
OTHER_KEYS: dict[str, Callable[[str], Any]] = {
    'debug': number, 'wait_for_server_on_startup': number, 'demostorage': number,
    'ssl_ca': str, 'ssl_crl': str, 'ssl_cert': str, 'ssl_key': str, 'ssl_hostname': str,
}


def resolve(uri: str) -> tuple[Callable[[], Any], dict[str, str]]:
    """``(factory, rest)``: ``factory()`` opens the storage that `uri` names.  Raises ``ValueError``."""
    parts = urlsplit(uri)
    if parts.scheme != SCHEME:
        raise ValueError(f'bad URI {uri!r}: it must begin with {SCHEME}://')
    query = dict(parse_qsl(parts.query))
    options = _take(uri, query, CLIENT_KEYS)
    other = _take(uri, query, OTHER_KEYS)
    if 'wait_for_server_on_startup' in other:
        options.setdefault('wait', other['wait_for_server_on_startup'])
    options.update(_tls(uri, other))
    address = _address(uri, parts)

    def factory() -> Any:
        from zeo_clone.ClientStorage import ClientStorage
        storage = ClientStorage(address, **options)
        if not other.get('demostorage'):
            return storage
        from ZODB.DemoStorage import DemoStorage
        return DemoStorage(base=storage)

    return factory, query


def _address(uri: str, parts: Any) -> Any:
    if not parts.netloc:
        if not parts.path.strip('/'):
            raise ValueError(f'bad URI {uri!r}: name {SCHEME}://HOST:PORT or {SCHEME}:///PATH')
        return unquote(parts.path)
    try:
        port = parts.port
    except ValueError:
        raise ValueError(f'bad URI {uri!r}: the port is a number from 0 to {MAX_PORT}') from None
    return parts.hostname or 'localhost', DEFAULT_PORT if port is None else port


def _take(uri: str, query: dict[str, str], keys: dict[str, Callable[[str], Any]]) -> dict[str, Any]:
    """The values of `keys`, which are taken out of `query`."""
    return {key: _convert(uri, key, query.pop(key), convert)
            for key, convert in keys.items() if key in query}


def _convert(uri: str, key: str, text: str, convert: Callable[[str], Any]) -> Any:
    try:
        return convert(text)
    except ValueError as error:
        raise ValueError(f'bad URI {uri!r}: {key}: {error}') from None


def _tls(uri: str, other: dict[str, Any]) -> dict[str, Any]:
    if not any(key.startswith('ssl_') for key in other):
        return {}
    section = SimpleNamespace(certificate=other.get('ssl_cert'), key=other.get('ssl_key'),
                              password_function=None, authenticate=other.get('ssl_ca'),
                              crl=other.get('ssl_crl'), check_hostname=True)
    try:
        context = zconfig.client_context(section)
    except ValueError as error:
        raise ValueError(f'bad URI {uri!r}: {error}') from None
    return {'ssl': context, 'ssl_server_hostname': other.get('ssl_hostname')}
