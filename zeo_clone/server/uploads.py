"""Blobs that a client sends with its transaction: files of their own until the storage takes them
over.

In: the parts of one blob after another, never interleaved (B1), or the name of a file that the client
put into a blob directory that both share (B7).  Out: names of whole files, for the storage to
rename.  `close` removes what was not taken (B2).  Loop thread only; a file exists only inside a
transaction (S5b).
"""
from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import stat
import tempfile
from typing import IO, Any

from ZODB.interfaces import IBlobStorage
from ZODB.POSException import StorageTransactionError, Unsupported

from zeo_clone.server.arguments import BadArgument

log = logging.getLogger(__name__)

#: Names that clients make up in a shared blob directory (B5): the temporary names of ZODB, to which ZEO
#: adds a "-", and those of our client, with a process id and a number.
_SHARED_NAME = re.compile(r'0x[0-9a-f]{2,16}(\w{8}\.tmp-?|-\d{1,10}-\d{1,20}\.tmp)', re.ASCII)


class Uploads:
    """The blobs of one transaction in `storage`."""

    def __init__(self, storage: Any) -> None:
        self._storage = storage
        self._file: IO[bytes] | None = None  # of the blob that is coming in
        self._names: list[str] = []  # of all files that have been made, the present one last

    def __repr__(self) -> str:
        return f'<Uploads, {len(self._names)} files{", one coming in" if self._file else ""}>'

    def start(self) -> None:
        """A blob begins.  Raises OSError, Unsupported, StorageTransactionError."""
        if self._file is not None:
            raise StorageTransactionError('a blob begins before the one before it has ended')
        self._require_blobs()
        directory = self._storage.temporaryDirectory()
        try:
            descriptor, name = tempfile.mkstemp('.upload', 'zeo-', directory)
        except OSError as error:
            raise _no_room(error, directory) from error
        self._names.append(name)
        self._file = os.fdopen(descriptor, 'wb')

    def write(self, chunk: bytes) -> None:
        """More of the blob.  Raises OSError, StorageTransactionError."""
        file = self._present()
        try:
            file.write(chunk)
        except OSError as error:
            raise _no_room(error, os.path.dirname(self._names[-1])) from error

    def end(self) -> str:
        """The blob is whole; the name of its file.  Raises OSError: all that needs room happens now
        (B4).
        """
        file = self._present()
        self._file = None
        try:
            file.close()
        except OSError as error:
            raise _no_room(error, os.path.dirname(self._names[-1])) from error
        return self._names[-1]

    def take_shared(self, oid: bytes, name: str) -> str:
        """A file that the client wrote; its whole name.  Raises BadArgument, OSError, Unsupported."""
        self._require_blobs()
        helper = getattr(self._storage, 'fshelper', None)
        if helper is None:
            raise Unsupported('the storage has no blob directory that could be shared')
        if _SHARED_NAME.fullmatch(name) is None:
            raise BadArgument('the name of a shared blob is none that a shared blob directory gives out')
        path = os.path.join(helper.getPathForOID(oid), name)
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            raise FileNotFoundError(
                errno.ENOENT, f'the blob that the client wrote is not in the blob directory of the server, '
                              f'{helper.base_dir}: is it really the one that the client has as '
                              f'shared_blob_dir?') from None
        if not stat.S_ISREG(mode):
            raise BadArgument('a shared blob is not a regular file')
        self._names.append(path)
        return path

    def close(self) -> None:
        """Remove what the storage did not take.  May be called twice.  Never raises."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):  # no room for what was buffered: it goes anyway
                file.close()
        names, self._names = self._names, []
        for name in names:
            try:
                os.remove(name)
            except FileNotFoundError:  # noqa: PERF203 - the storage took it
                pass
            except OSError as error:
                log.warning('the file of a blob that was not committed cannot be removed: %s', error)

    def _present(self) -> IO[bytes]:
        if self._file is None:
            raise StorageTransactionError('a part of a blob, but no blob has begun')
        return self._file

    def _require_blobs(self) -> None:
        if not IBlobStorage.providedBy(self._storage):
            raise Unsupported('the storage has no blobs; give it a blob-dir')


def _no_room(error: OSError, directory: str) -> OSError:
    return OSError(error.errno or errno.EIO,
                   f'the server cannot keep a blob in {directory}: {error.strerror}')
