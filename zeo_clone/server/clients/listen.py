"""Listening: from an address to sockets, and from connections to whoever wants them.

In: an address, TCP or unix; connections, in the loop's thread.  Out: ``on_connect(socket, peer)``, where
`peer` is the text that names the other side in log lines.  Knows no protocol.
"""
from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
from collections.abc import Callable, Iterator
from typing import Any

from zeo_clone.addresses import Address, format_address
from zeo_clone.loop.core import Loop
from zeo_clone.loop.dispatcher import Acceptor
from zeo_clone.loop.poller import READ
from zeo_clone.loop.runtime import AF_UNIX, BACKLOG, Endpoint, Runtime, Socket

log = logging.getLogger(__name__)

#: With port 0 the system's choice for one address family may be taken in the other: ask so often.
PORT_ATTEMPTS = 20
#: Errors of a family that this machine does not have.
NO_FAMILY = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})

OnConnect = Callable[[Socket, str], object]
#: Tells for how many seconds nobody more can be taken.
Pause = Callable[[], float]


def no_pause() -> float:
    """Everybody is taken at once."""
    return 0.0


class Listener(Acceptor):
    """One listening socket."""

    def __init__(self, loop: Loop, sock: Socket, on_connect: OnConnect, pause: Pause) -> None:
        super().__init__(loop, sock)
        self._on_connect = on_connect
        self._pause = pause

    def pause_s(self) -> float:
        return self._pause()

    def handle_accept(self, sock: Socket, address: Any) -> None:
        if isinstance(address, tuple):
            self.loop.runtime.tune(sock)
            peer = str(Endpoint(0, address))
        else:
            peer = _describe_unix_peer(self.loop.runtime, sock)
        self._on_connect(sock, peer)


def _describe_unix_peer(runtime: Runtime, sock: Socket) -> str:
    credentials = runtime.peer_credentials(sock)
    if credentials is None:
        return f'unix socket, descriptor {sock.fileno()}'
    return 'unix socket, pid {}, uid {}'.format(*credentials)


def origin(name: str) -> str:
    """Who `name` is, the text of a peer with or without its label, apart from what changes with each
    connection: the port, the process."""
    peer = name.partition(' (')[0]
    if peer.startswith('unix socket'):
        return ', '.join(part for part in peer.split(', ') if part.startswith(('unix', 'uid')))
    return peer.rpartition(':')[0]


def try_address(runtime: Runtime, address: Address) -> None:
    """Raises OSError as `open_listeners` would, as far as it is known before: nobody can connect, and nothing
    is left.  For use before a long wait for storages."""
    with _named(address):
        if not isinstance(address, str):
            for sock in _listen_tcp(runtime, *address, backlog=None):
                sock.close()
        elif not _is_free(runtime, address):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _is_free(runtime: Runtime, path: str) -> bool:
    """Whether a unix socket can be made at `path`, where one may be that was left behind."""
    with contextlib.closing(_unix_socket(runtime)) as sock:
        try:
            answer = sock.connect_ex(path)
        except OSError as error:  # too long: it has no number then
            raise OSError(errno.ENAMETOOLONG, str(error)) from error
    if answer in (0, errno.EAGAIN):  # EAGAIN: somebody listens and is busy
        return False
    if answer != errno.ENOENT:
        _check_socket(runtime, path)
    return True


@contextlib.contextmanager
def _named(address: Address) -> Iterator[None]:
    """Errors in the block name the address."""
    try:
        yield
    except OSError as error:
        place = format_address(address)
        raise OSError(error.errno, f'cannot listen at {place}: {error.strerror or error}') from error


def open_listeners(loop: Loop, address: Address, on_connect: OnConnect,
                   socket_mode: int | None = None, pause: Pause = no_pause) -> tuple[list[Listener], Address]:
    """Listen at `address`: the listeners, all with one port, and the address with the port that they
    have.  `socket_mode`: permissions of a unix socket's file; None leaves them to the umask.

    Without a host they listen at all interfaces.  Raises OSError that names the address.
    """
    with _named(address):
        if isinstance(address, str):
            sockets = [_listen_unix(loop.runtime, address, socket_mode)]
        else:
            sockets = _listen_tcp(loop.runtime, *address)
            address = (address[0], sockets[0].getsockname()[1])
    listeners = [Listener(loop, sock, on_connect, pause) for sock in sockets]
    for listener in listeners:
        listener.open(READ)
    return listeners, address


def warn_if_open(listeners: list[Listener]) -> None:
    """Connections are not encrypted: say so if other machines can make some."""
    places = [Endpoint(0, listener.socket.getsockname()) for listener in listeners]
    far = [str(place) for place in places
           if isinstance(place.sockaddr, tuple) and not _is_loopback(place.sockaddr[0])]
    if far:
        log.warning('listening at %s without TLS: whoever reaches this port can read and write the '
                    'storages. Let it listen at localhost, or configure <ssl>', ', '.join(far))


def _is_loopback(host: str) -> bool:
    return host == '::1' or host.startswith(('127.', '::ffff:127.'))


def _listen_tcp(runtime: Runtime, host: str | None, port: int, backlog: int | None = BACKLOG) -> list[Socket]:
    attempts = 1 if port else PORT_ATTEMPTS
    while True:
        attempts -= 1
        try:
            return _listen_everywhere(runtime, host, port, backlog)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not attempts:
                raise


def _listen_everywhere(runtime: Runtime, host: str | None, port: int, backlog: int | None) -> list[Socket]:
    """A socket for each address of `host`; what the first one got for port 0 the others take as well."""
    sockets: list[Socket] = []
    failure: OSError | None = None
    try:
        for family, sockaddr in runtime.resolve(host, port, passive=True):
            endpoint = Endpoint(family, (sockaddr[0], port, *sockaddr[2:]))
            try:
                sockets.append(runtime.listen(endpoint, backlog))
            except OSError as error:
                if error.errno not in NO_FAMILY:
                    raise
                failure = error
            else:
                port = sockets[0].getsockname()[1]
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    if not sockets:
        raise failure or OSError(errno.EADDRNOTAVAIL, 'the host has no address')
    return sockets


def _listen_unix(runtime: Runtime, path: str, mode: int | None) -> Socket:
    endpoint = Endpoint(_unix_family(), path)
    try:
        return runtime.listen(endpoint, mode=mode)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or not _is_left_behind(runtime, path):
            raise
    log.info('removing the unix socket %s that a server left behind', path)
    runtime.remove(path)
    return runtime.listen(endpoint, mode=mode)


def _is_left_behind(runtime: Runtime, path: str) -> bool:
    """Whether `path` is a unix socket at which nobody listens."""
    _check_socket(runtime, path)
    with contextlib.closing(_unix_socket(runtime)) as sock:
        return sock.connect_ex(path) == errno.ECONNREFUSED


def _check_socket(runtime: Runtime, path: str) -> None:
    if not stat.S_ISSOCK(runtime.stat(path).st_mode):
        raise OSError(errno.EEXIST, 'it is there and is not a socket; remove it, or give another address')


def _unix_socket(runtime: Runtime) -> Socket:
    return runtime.socket(_unix_family())


def _unix_family() -> int:
    if AF_UNIX is None:
        raise OSError(errno.EAFNOSUPPORT, 'this system has no unix sockets; use HOST:PORT')
    return AF_UNIX


def remove_unix_socket(runtime: Runtime, address: Address) -> None:
    """Remove the path at which a server listened."""
    if isinstance(address, str):
        try:
            runtime.remove(address)
        except FileNotFoundError:
            pass  # somebody was faster
