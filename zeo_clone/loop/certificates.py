"""A server's TLS context that notices renewed certificates.

The files of certificate and key are looked at for each new connection; when one has changed they are read
again, so that a renewal needs no restart.  What cannot be read is logged, and the old one stays in use.
Authorities that are trusted are read once.  In the thread that accepts.
"""
from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)

#: Modification time in nanoseconds, size and inode of a file.
Stamp = tuple[int, int, int]


class ServerContext(ssl.SSLContext):
    """An ``ssl.SSLContext`` for servers; ``watch`` after the certificate has been loaded."""

    _files: tuple[str, ...] = ()
    _stamps: tuple[Stamp, ...] = ()
    _password: Callable[[], str] | None = None

    def watch(self, certificate: str, key: str | None,
              password: Callable[[], str] | None = None) -> None:
        """Look after these files, which are in use now."""
        self._files = (certificate,) if key is None else (certificate, key)
        self._password = password
        self._stamps = self._look()

    def wrap_bio(self, *args: Any, **keywords: Any) -> ssl.SSLObject:
        """For a new connection."""
        if self._files:
            self._refresh()
        return super().wrap_bio(*args, **keywords)

    def _look(self) -> tuple[Stamp, ...]:
        found = [os.stat(path) for path in self._files]
        return tuple((status.st_mtime_ns, status.st_size, status.st_ino) for status in found)

    def _refresh(self) -> None:
        try:
            stamps = self._look()
            if stamps == self._stamps:
                return
            self._stamps = stamps  # a file that is bad is not tried again before it changes
            self.load_cert_chain(self._files[0], self._files[1] if self._files[1:] else None, self._password)
        except (OSError, ValueError) as error:
            log.error('the certificate in %s has changed and cannot be used, the one before stays in use: '
                      '%s', self._files[0], error)
        else:
            log.info('the certificate in %s has changed and is used from now on', self._files[0])
