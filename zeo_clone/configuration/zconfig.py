"""What the sections and keys of a configuration become (ZConfig datatypes).

In: section values as ZConfig parsed them by ``schema.xml``, ``server.xml``, ``component.xml`` and
``ssl.xml``.  Out: a `Configuration` for runzeo, factories of client storages for ZODB, TLS contexts.
Runs in the thread that loads the configuration.  Opens no storage and no connection before it is asked
to; refuses to know the command line.

A bad value raises ``ValueError``; ZConfig adds the file and the line.
"""
from __future__ import annotations

import importlib.util
import io
import math
import os
import pkgutil
import re
from collections.abc import Callable, Mapping
from typing import Any

import ZConfig
from ZConfig.datatypes import stock_datatypes

from zeo_clone.addresses import Address, parse_address
from zeo_clone.configuration.explain import explain
from zeo_clone.configuration.filestorage import with_group_commit
from zeo_clone.configuration.tlsfiles import TLSFiles
from zeo_clone.loop.certificates import RenewedContext
from zeo_clone.monitor.hosts import host_name
from zeo_clone.server.clients.limits import LEAST_MEMORY, LEAST_OUTPUT, check_least
from zeo_clone.zrpc.frames import MAX_FRAME

DEFAULT_STORAGE = '1'
SCHEMA = os.path.join(os.path.dirname(__file__), 'schema.xml')

#: Keywords of ClientStorage that a section passes on, when given, under the same name.
CLIENT_KEYWORDS = (
    'storage', 'cache_size', 'blob_dir', 'shared_blob_dir', 'blob_cache_size', 'blob_cache_size_check',
    'read_only', 'read_only_fallback', 'server_sync', 'spread', 'wait_timeout', 'client_label', 'name',
    'heartbeat', 'drop_newer_cache',
    # zeo-clone-client only
    'client', 'var', 'min_disconnect_poll', 'max_disconnect_poll', 'wait', 'drop_cache_rather_verify',
    'username', 'password', 'realm',
)


# -- values of keys -------------------------------------------------------------------------------

def count(text: str) -> int:
    """A whole number, 0 or greater."""
    try:
        number = int(text)
    except ValueError:
        raise ValueError(f'{text!r} is not a whole number') from None
    if number < 0:
        raise ValueError(f'{text} is less than 0')
    return number


def positive(text: str) -> int:
    """A whole number, 1 or greater."""
    number = count(text)
    if not number:
        raise ValueError('0 is less than 1')
    return number


def boolean(text: str) -> bool:
    """``yes``, ``no``, ``true``, ``false``, ``on`` or ``off``."""
    try:
        return bool(stock_datatypes['boolean'](text))
    except ValueError:
        raise ValueError(f'{text!r} is neither yes nor no, true nor false, on nor off') from None


def octal(text: str) -> int:
    """Permissions of a file: ``660``."""
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777:
        raise ValueError(f'{text!r} are no permissions: three octal digits, like 660')
    return mode


def byte_size(text: str) -> int:
    """A number of bytes: ``5000``, ``100KB``, ``20MB``, ``1GB``."""
    try:
        return count(str(stock_datatypes['byte-size'](text)))
    except ValueError:
        raise ValueError(f'{text!r} is not a size: a whole number of bytes, 0 or more, or one with a '
                         'suffix KB, MB or GB') from None


def frame_limit(text: str) -> int:
    """Bytes of a message, into which a part of a blob has to fit; the length has four bytes."""
    size = byte_size(text)
    if not 64 << 10 <= size <= 4 << 30:
        raise ValueError(f'{text!r} is not a size from 64KB to 4GB')
    return min(size, MAX_FRAME)


def memory_limit(text: str) -> int:
    """Bytes that may wait for all clients."""
    return _at_least(LEAST_MEMORY, text)


def output_limit(text: str) -> int:
    """Bytes that may wait for one client."""
    return _at_least(LEAST_OUTPUT, text)


def _at_least(least: int, text: str) -> int:
    size = byte_size(text)
    try:
        return check_least(size, least, repr(text))
    except ValueError as error:
        raise ValueError(f'{error}: give a whole number of bytes, or one with a suffix KB, MB or '
                         'GB') from None


def seconds(text: str) -> int:
    """A time in seconds, 0 or longer: ``90``, ``90s``, ``2m``, ``1h``, ``1d``; ``0.5`` is rounded up."""
    try:
        if re.fullmatch(r'[\d.]+([eE][+-]?\d+)?', text):
            return math.ceil(float(text))
        return count(str(stock_datatypes['time-interval'](text)))
    except (ValueError, OverflowError):
        raise ValueError(f'{text!r} is not a time: a whole number of seconds, 0 or more, or a number '
                         'with a suffix s, m, h or d') from None


def some_seconds(text: str) -> int:
    """A time in seconds, 1 or longer, as `seconds` reads it."""
    time = seconds(text)
    if not time:
        raise ValueError(f'{text!r} is less than the least, 1 second')
    return time


def duration(text: str) -> float:
    """A time in seconds, longer than 0: ``0.5``, ``100ms``, ``1s``, ``2m``, ``1h``."""
    found = re.fullmatch(r'(\d+(?:\.\d+)?)(ms|s|m|h)?', text)
    if found is None or not float(found[1]):
        raise ValueError(f'{text!r} is not a time: a number greater than 0, of seconds, or with a suffix '
                         'ms, s, m or h')
    return float(found[1]) * {'ms': 0.001, 'm': 60.0, 'h': 3600.0}.get(found[2], 1.0)


def listening_address(text: str) -> Address:
    """Where a server listens, as `parse_address` reads it; a HOST alone is a free port there, as in ZEO."""
    alone = re.fullmatch(r'[A-Za-z][\w.-]*|(?:\d+\.){3}\d+|\[[0-9A-Fa-f:.]+\]', text)
    return parse_address(f'{text}:0' if alone else text)


def no_msgpack(text: str) -> bool:
    """``false``, which is all that there is."""
    if boolean(text):
        raise ValueError('this server speaks pickles only: remove msgpack, or set it to false; clients '
                         'of ZEO must not have ZEO_MSGPACK in their environment')
    return False


def trusted(text: str) -> str | None:
    """A file or directory of certificates; None for ``SIGNED`` or ``-``, the authorities of the system."""
    path: str | None = None if text in ('SIGNED', '-') else stock_datatypes['existing-path'](text)
    return path


def metrics_address(value: Any) -> Address:
    """Where to listen for HTTP.  The package that makes metrics must be there."""
    address = parse_address(value)
    if isinstance(address, str):
        raise ValueError(f'{value!r} is a path; metrics need HOST:PORT or PORT')
    if importlib.util.find_spec('prometheus_client') is None:
        raise ValueError("metrics-address needs the package prometheus_client, which is not installed: run "
                         "pip install 'zeo_clone[metrics]', or remove the key")
    return address


def metrics_host(value: str) -> str:
    """A name under which the monitor answers; a port says nothing."""
    return host_name(value)


def imported(name: str) -> Any:
    """The object with the dotted `name`."""
    try:
        return pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f'cannot import {name!r}: {error}') from error


# -- TLS ------------------------------------------------------------------------------------------

def server_context(section: Any) -> RenewedContext:
    """The TLS context of a server, which lets in only clients that show a trusted certificate."""
    if not section.certificate:
        raise ValueError("the server's <ssl> section needs a certificate")
    for key in ('check_hostname', 'server_hostname'):
        if getattr(section, key) is not None:
            raise ValueError(f"{key.replace('_', '-')} is for clients, not for the server's <ssl>")
    return RenewedContext(_tls_files(section, True))


def client_context(section: Any) -> RenewedContext:
    """The TLS context of a client, which talks only to a server that shows a trusted certificate."""
    return RenewedContext(_tls_files(section, False))


def _tls_files(section: Any, server_side: bool) -> TLSFiles:
    return TLSFiles(server_side, section.certificate, section.key, section.password_function,
                    section.authenticate, section.crl, section.check_hostname is not False)


# -- sections -------------------------------------------------------------------------------------

class ServerSection:
    """``<zeo>``: `address`, `metrics_address`, `create_root`, `group_commit`, `pid_filename`, `options`,
    keywords for StorageServer, and `monitor`, for Monitor."""

    def __init__(self, section: Any) -> None:
        self.address = section.address
        self.metrics_address: Address | None = section.metrics_address
        self.create_root: bool = section.create_root
        self.group_commit: bool = section.group_commit
        self.pid_filename: str | None = section.pid_filename
        self.monitor: dict[str, Any] = {
            'hosts': section.metrics_hosts, 'disconnect': section.metrics_disconnect}
        self.options: dict[str, Any] = {
            'read_only': section.read_only,
            'invalidation_queue_size': section.invalidation_queue_size,
            'invalidation_age': section.invalidation_age,
            'transaction_timeout': section.transaction_timeout,
            'max_connections': section.max_connections,
            'handshake_timeout_s': section.handshake_timeout,
            'heartbeat_s': section.heartbeat,
            'frame_limit': section.frame_limit,
            'output_limit': section.output_limit,
            'memory_limit': section.memory_limit,
            'socket_mode': section.socket_mode,
            'client_conflict_resolution': section.client_conflict_resolution,
            'resolve': tuple(section.resolve),
            'ssl': section.ssl and server_context(section.ssl),
            'allow_disconnect': section.allow_disconnect,
            'slow_commit_s': section.slow_commit,
            'slow_load_s': section.slow_load,
            'measure': section.metrics_address is not None,
            'poll_interval_s': section.poll_interval,
            'read_connections': section.read_connections,
            'commit_connections': section.commit_connections,
            'server_cache_size': section.server_cache_size,
            'database_patience_s': section.database_patience,
        }


class ClientStorageSection:
    """``<clientstorage>`` and ``<zeo-clone-client>``: each `open` makes a new ClientStorage."""

    def __init__(self, section: Any) -> None:
        self.config = section
        self.name: str | None = section.getSectionName()
        self.addresses = list(section.server)
        self.keywords = {name: value for name in CLIENT_KEYWORDS
                         if (value := getattr(section, name, None)) is not None}
        if section.cache_path:
            self.keywords['cache'] = section.cache_path
        if section.ssl:
            self.keywords['ssl'] = client_context(section.ssl)
            self.keywords['ssl_server_hostname'] = section.ssl.server_hostname

    def open(self, database_name: str = 'unnamed', databases: object = None) -> Any:
        """A new ClientStorage.  The arguments are ZODB's and not needed."""
        from zeo_clone.ClientStorage import ClientStorage
        return ClientStorage(self.addresses, **self.keywords)


class Configuration:
    """A whole zeo.conf.

    `zeo` is the `ServerSection`, `storages` maps names to factories with ``open()``, in the order of the
    file, `eventlog` configures logging when called, or is None, `runner` is for zeoctl.
    """

    def __init__(self, section: Any) -> None:
        self.zeo: ServerSection = section.zeo
        factories = section.storages
        if self.zeo.group_commit:
            factories = [with_group_commit(factory) for factory in factories]
        self.storages: Mapping[str, Any] = _by_name(factories)
        self.eventlog = section.eventlog
        self.runner = section.runner


def _by_name(factories: list[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for factory in factories:
        name = getattr(factory, 'name', None) or DEFAULT_STORAGE
        if name in found:
            raise ValueError(f'two storages are named {name!r} (without a name a storage is '
                             f'{DEFAULT_STORAGE!r}): give each section a name of its own')
        found[name] = factory
    return found


def load(url: str) -> Configuration:
    """Read the configuration at `url`, a path or URL.

    Raises ``ZConfig.ConfigurationError`` whose text is one line and names the file and, unless the
    mistake concerns a whole section, the line.
    """
    return _load(url, ZConfig.loadConfig, url)


def server_section(keys: str, default_address: str) -> ServerSection:
    """The ``<zeo>`` section with the text `keys` in it; `default_address` if they name no address.

    Raises ``ZConfig.ConfigurationError`` as `load` does.
    """
    if not re.search(r'^\s*address\s', keys, re.MULTILINE):
        keys += f'\naddress {default_address}'
    text = f'<zeo>\n{keys}\n</zeo>\n'
    return _load('<zeo>', ZConfig.loadConfigFile, io.StringIO(text), text).zeo


def _load(place: str, loader: Callable[..., tuple[Any, Any]], source: object,
          text: str | None = None) -> Configuration:
    schema = ZConfig.loadSchema(SCHEMA)
    try:
        configuration: Configuration = loader(schema, source)[0]
    except (ZConfig.ConfigurationError, ValueError) as error:
        raise ZConfig.ConfigurationError(explain(schema, error, place, text), place) from error
    return configuration
