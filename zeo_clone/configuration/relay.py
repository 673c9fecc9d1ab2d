"""A client of another server as a storage to be served: what ``--relay`` says.

In: addresses of servers, a cache file, its size, a client's keywords for TLS.  Out: an open ClientStorage,
which looks for one of them.
"""
from __future__ import annotations

from typing import Any

from zeo_clone.addresses import Address, format_address

#: Where the cache is, if nothing else is said, and how large, in bytes.
CACHE, CACHE_SIZE = 'relay.zec', 256 << 20


def open_relay(addresses: list[Address], cache: str, cache_size: int, **tls: Any) -> Any:
    """A storage with its cache in the file `cache`.  Does not wait until there is a connection."""
    from zeo_clone.ClientStorage import ClientStorage  # a server without a relay needs no client
    return ClientStorage(addresses, cache=cache, cache_size=cache_size, wait=False, client_label='relay',
                         **tls)


def place(addresses: list[Address], cache: str) -> str:
    """For people."""
    return f'of the server at {" or ".join(map(format_address, addresses))}, cache {cache}'
