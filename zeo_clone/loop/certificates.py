"""A TLS context that notices renewed files.

The files of certificates, keys, authorities and revocation lists are looked at for each new connection; when
one has changed a new context is made from all of them, so that a renewal needs no restart, and no session of
before can be resumed by a peer that was revoked meanwhile.  What cannot be used is logged, and what was
read before stays in use.  In the thread that accepts or connects.  It refuses to know what the files
mean.
"""
from __future__ import annotations

import contextlib
import logging
import os
import ssl
from typing import Any, Protocol

from zeo_clone.loop.runtime import REAL, Runtime

log = logging.getLogger(__name__)

#: Modification time in nanoseconds, size and inode of a file; None if there is none.
Stamp = tuple[int, int, int] | None


class Source(Protocol):
    """The files of a context, and the context that is made of them."""

    @property
    def paths(self) -> tuple[str, ...]:
        """The files, and directories of files, that are read."""

    def context(self) -> ssl.SSLContext:
        """A context of what is in them now.  Raises ``OSError`` or ``ValueError``."""

    def expires(self) -> float | None:
        """When the own certificate ends, in seconds since the epoch; None if there is none.  Raises likewise.
        """


class RenewedContext:
    """What connections need of an ``ssl.SSLContext``, up to date.  Raises what `Source.context` raises."""

    def __init__(self, source: Source, runtime: Runtime = REAL) -> None:
        self._source = source
        self._runtime = runtime
        self._stamps = self._look()  # before they are read: a change meanwhile is noticed later
        self._context = source.context()
        self.expires = source.expires()

    def wrap_bio(self, *args: Any, **keywords: Any) -> ssl.SSLObject:
        """As of an ``ssl.SSLContext``, for a new connection."""
        stamps = self._look()
        if stamps != self._stamps:
            self._stamps = stamps  # files that are bad are not tried again before they change
            self._renew()
        return self._context.wrap_bio(*args, **keywords)

    def _renew(self) -> None:
        paths = ', '.join(self._source.paths)
        try:
            self._context = self._source.context()
            self.expires = self._source.expires()
        except (OSError, ValueError) as error:
            log.error('the TLS files %s have changed and cannot be used, what was read before stays in use: '
                      '%s', paths, error)
        else:
            log.info('the TLS files %s have changed and are used from now on', paths)

    def _look(self) -> dict[str, Stamp]:
        found = {}
        for path in self._source.paths:
            found[path] = stamp(self._runtime, path)
            with contextlib.suppress(OSError):  # whoever reads what is in it tells
                if self._runtime.is_directory(path):
                    found.update({inside: stamp(self._runtime, inside) for name in self._runtime.listdir(path)
                                  for inside in [os.path.join(path, name)]})
        return found


def stamp(runtime: Runtime, path: str) -> Stamp:
    """What changes when the file at `path` does."""
    try:
        status = runtime.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
