"""What a ClientStorage takes: one table, the signature of `arguments`.

In: arguments as an application gives them.  Out: all of them by name.  `takes` and `method_takes` give the
signature to what passes them on, for ``help()``, editors and type checkers.  Imports
nothing that takes time, and does not look at values: that is done in `options`.
"""
from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, cast

if TYPE_CHECKING:
    import ssl as tls
    from collections.abc import Sequence

    from zeo_clone.client.world import World

    Place = int | str | tuple[str | None, int]

P = ParamSpec('P')
R = TypeVar('R')

#: Keywords of old versions: accepted, without effect, as ZEO does.
IGNORED = ('disconnect_poll', 'drop_cache_rather_verify', 'username', 'password', 'realm', 'credentials')


def arguments(addr: Place | Sequence[Place], storage: str = '1', cache_size: int | None = 20 << 20,
              name: str = '', wait_timeout: float | None = 30.0, *,
              cache: Any = None, client: str | None = None, var: str | None = None, wait: bool = True,
              min_disconnect_poll: float = 1.0, max_disconnect_poll: float | None = None,
              read_only: bool = False, read_only_fallback: bool = False, server_sync: bool = False,
              spread: bool = False,
              blob_dir: str | None = None, shared_blob_dir: bool = False,
              blob_cache_size: int | None = None, blob_cache_size_check: int = 10,
              blob_progress: Callable[[bytes, int, int | None], object] | None = None,
              ssl: tls.SSLContext | None = None, ssl_server_hostname: str | None = None,
              drop_newer_cache: bool = False, client_label: str | bytes | None = None,
              heartbeat: float | None = 10.0, io_thread: bool = True, world: World | None = None,
              disconnect_poll: Any = None, drop_cache_rather_verify: Any = None, username: Any = None,
              password: Any = None, realm: Any = None, credentials: Any = None) -> dict[str, Any]:
    """``addr``: a port, ``(host, port)``, the path of a unix socket (with a ``/``), or a list of these.
    ``storage``: which of the server's storages.
    ``cache_size``: bound of the client cache, in bytes.
    ``name``: for ``getName()``; by default the address.
    ``wait_timeout``: how long a call waits for a connection, in seconds.
    ``cache``: path of the cache file, or an object with `interfaces.IClientCache`; None: a temporary file.
    ``client``, ``var``: the other way to name the cache file: ``var/client-storage.zec``.
    ``wait``: return connected, or raise `ClientDisconnected`.
    ``min_disconnect_poll``, ``max_disconnect_poll``: longest pause between two attempts to connect, in
    seconds; the second counts, if it is given.  0.05 is the least that counts, whatever is given.
    ``read_only``: refuse to write.
    ``read_only_fallback``: use a read-only server if there is no other; change over as soon as there is.
    ``server_sync``: ``Connection.sync()`` and each new transaction ask the server first.
    ``spread``: of several addresses any is tried first, so that many clients spread over the servers.
    ``blob_dir``: directory for blobs: a cache of the client's own, or, with ``shared_blob_dir``, the
    server's.
    ``blob_cache_size``: bound of the blob cache, in bytes; None: none.
    ``blob_cache_size_check``: clean up after so many percent of it have been added.
    ``blob_progress``: called with oid, bytes so far and total (or None) while blobs are transferred.
    ``ssl``: an ``ssl.SSLContext``; connections are encrypted.
    ``ssl_server_hostname``: the name that the server's certificate must have; None: the host of ``addr``.
    ``drop_newer_cache``: drop a cache that knows more than the database, instead of an error.
    ``client_label``: for the server's log and status; cut to 100 characters.
    ``heartbeat``: seconds between two questions that find out whether the server is there; 0: never ask.
    ``io_thread``: a thread of the process reads while the application is silent; else the application
    calls ``zeo_clone.loop``.
    ``world``: what storages share; None: with those of this process.
    ``disconnect_poll``, ``drop_cache_rather_verify``, ``username``, ``password``, ``realm``, ``credentials``:
    accepted and ignored, as in ZEO.
    """
    return dict(locals())


arguments.__qualname__ = 'ClientStorage'  # errors about wrong ones name it so
SIGNATURE = inspect.signature(arguments)


def check_names(keywords: dict[str, Any]) -> None:
    """Raises TypeError, which tells what is known, for a name that is not."""
    for name in keywords:
        if name not in SIGNATURE.parameters:
            raise TypeError(f'ClientStorage does not know the argument {name!r}; it knows '
                            f'{", ".join(sorted(SIGNATURE.parameters))}')


def takes(table: Callable[P, Any]) -> Callable[[Callable[..., R]], Callable[P, R]]:
    """A decorator: the function passes on what `table` takes, and has its signature and descriptions."""
    def described(function: Callable[..., R]) -> Callable[P, R]:
        _describe(function, [*inspect.signature(table).parameters.values()], table)
        return cast('Callable[P, R]', function)
    return described


def method_takes(table: Callable[P, Any]) -> Callable[[Callable[..., R]], Callable[Concatenate[Any, P], R]]:
    """As the function before, for a method."""
    def described(method: Callable[..., R]) -> Callable[Concatenate[Any, P], R]:
        itself = inspect.Parameter('self', inspect.Parameter.POSITIONAL_OR_KEYWORD)
        _describe(method, [itself, *inspect.signature(table).parameters.values()], table)
        return cast('Callable[Concatenate[Any, P], R]', method)
    return described


def _describe(function: Any, parameters: list[inspect.Parameter], table: Callable[..., Any]) -> None:
    own = inspect.signature(function).return_annotation
    function.__signature__ = inspect.Signature(parameters, return_annotation=own)
    function.__doc__ = f'{inspect.cleandoc(function.__doc__)}\n\n{inspect.cleandoc(table.__doc__ or "")}'
