"""Addresses as users write them, and their one normal form.

Text, numbers and tuples flow in; ``(host, port)`` tuples and paths of unix sockets flow out.  Pure
functions, any thread.  Floor 0: refuses to know sockets, and what a name resolves to.
"""
from __future__ import annotations

import os
from typing import Any, TypeAlias

__all__ = ['Address', 'format_address', 'parse_address', 'parse_addresses']

#: ``(host, port)`` or the path of a unix socket.  Host None: not given, that is all interfaces for a
#: server and ``localhost`` for a client.
Address: TypeAlias = 'tuple[str | None, int] | str'

MAX_PORT = 65535
ALLOWED = 'PORT, HOST:PORT, [IPv6]:PORT or the PATH of a unix socket, with a / in it'


def parse_address(value: Any) -> Address:
    """The normal form of one address: ``(host or None, port)`` or a path.

    `value` is a port (int), ``(host or None, port)``, an ``os.PathLike``, or text: ``9100``,
    ``localhost:9100``, ``:9100``, ``[::1]:9100``, ``/run/zeo.sock``, ``./zeo.sock``.  Port 0 lets a
    server choose a free one.  Raises ``ValueError`` that repeats the value and says what is allowed.
    """
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):
        return _parse_text(value)
    if isinstance(value, int):
        return None, _port(value, value)
    if isinstance(value, tuple) and len(value) == 2:
        host, port = value
        if host is None or isinstance(host, str):
            return host or None, _port(port, value)
    raise _refuse(value, 'not an address')


def parse_addresses(value: Any) -> list[Address]:
    """The normal forms of one address or of a list of them, in the order given, none twice.

    A list is always a list of addresses, a tuple only if it is not itself a ``(host, port)`` pair.
    Raises ``ValueError``, also for an empty list.
    """
    several = isinstance(value, list) or isinstance(value, tuple) and not _is_pair(value)
    if _is_pair_of_text(value):
        raise _refuse(value, 'the port of a pair is a number, not text')
    found = list(dict.fromkeys(map(parse_address, value if several else [value])))
    if not found:
        raise _refuse(value, 'no address')
    return found


def format_address(address: Address) -> str:
    """`address` as text that `parse_address` understands; a host that was not given is left out."""
    if isinstance(address, str):
        return address
    host, port = address[:2]
    if not host:
        return str(port)
    return f'[{host}]:{port}' if ':' in host else f'{host}:{port}'


def _is_pair(value: tuple[Any, ...]) -> bool:
    return len(value) == 2 and isinstance(value[1], int) and not isinstance(value[0], (int, tuple))


def _is_pair_of_text(value: Any) -> bool:
    """Is it ``('localhost', '9100')``?  As two addresses it would be a host without a port, and a port."""
    return (isinstance(value, tuple) and len(value) == 2 and all(isinstance(part, str) for part in value)
            and value[1].isdecimal() and not value[0].isdecimal() and not {':', '/'} & set(value[0]))


def _parse_text(text: str) -> Address:
    if '://' in text or '\0' in text:
        raise _refuse(text, 'not an address')
    if '/' in text:
        return text
    host, colon, port = map(str.strip, text.rpartition(':'))  # a blank after the colon is common
    if host.startswith('[') and host.endswith(']'):
        host = host[1:-1]
        if ':' not in host:
            raise _refuse(text, 'no IPv6 address between the brackets')
    elif ':' in host:
        raise _refuse(text, 'an IPv6 address goes between brackets')
    elif not colon and not port.isdecimal():
        raise _refuse(text, 'the port is missing')
    number = int(port[:9]) if port.isascii() and port.isdecimal() else None
    return host or None, _port(number, text)


def _port(port: Any, given: Any) -> int:
    if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port <= MAX_PORT:
        raise _refuse(given, f'the port is a number from 0 to {MAX_PORT}')
    return port


def _refuse(value: Any, reason: str) -> ValueError:
    return ValueError(f'bad address {value!r:.200}: {reason}; allowed: {ALLOWED}')
