"""Blobs on a client: uploads in a transaction, downloads on demand.

`Blobs` or `BlobsShared` is what a ClientStorage with a blob directory has; calls come from any thread.
Files are in `blobdir`, what arrives from the server is in `downloads`.
"""
from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ZODB.blob import BlobFile
from ZODB.POSException import POSKeyError

from zeo_clone.client.blobdir import BlobCache, BlobDirectory, SharedBlobs
from zeo_clone.client.downloads import Download, Progress
from zeo_clone.client.link import Link
from zeo_clone.zrpc.offers import BLOB_CHUNK, BLOB_SIZE

if TYPE_CHECKING:
    from zeo_clone.client.commit import Begun

GetLink = Callable[[], Link]


class Blobs:
    """Blobs in a cache of the client's own."""

    def __init__(self, directory: BlobCache, progress: Progress | None) -> None:
        self.directory = directory
        self._progress = progress

    def store(self, begun: Begun, oid: bytes, serial: bytes, data: bytes, filename: str) -> None:
        """Take over the file `filename` and send it to the server.

        While the server brings it to its disk, the same is done here, for the cache (B11).
        """
        begun.check(oid, data)
        part = self.directory.take_over(filename)
        begun.blobs.append((oid, part))
        total, file = self.directory.read_part(part)
        done = 0
        with file:
            begun.send_raw('storeBlobStart')
            while chunk := file.read(BLOB_CHUNK):
                begun.send_raw('storeBlobChunk', chunk)
                done += len(chunk)
                if self._progress is not None:
                    self._progress(oid, done, total)
        begun.write('storeBlobEnd', oid, data, serial, data)
        self.directory.sync(part)

    def committed(self, blobs: list[tuple[bytes, str]], tid: bytes) -> None:
        """A transaction with these blobs was committed as `tid`."""
        for oid, part in blobs:
            self.directory.adopt(oid, tid, part)

    def load(self, link: GetLink, oid: bytes, serial: bytes) -> str:
        """The path of a revision's file, downloaded if need be."""
        return self.directory.find(oid, serial, lambda path: self._download(link(), oid, serial, path),
                                   lambda: told_size(link(), oid, serial))

    def open(self, link: GetLink, oid: bytes, serial: bytes, blob: Any) -> Any:
        """A revision's file, open for reading."""
        return self.directory.use(
            oid, serial, lambda path: self._download(link(), oid, serial, path),
            lambda path: open_blob(self.directory, path, blob), lambda: told_size(link(), oid, serial))

    def _download(self, link: Link, oid: bytes, serial: bytes, path: str) -> None:
        download = Download(oid, self.directory.open_part(path), self._progress)
        try:
            link.downloads.ask(link.channel, oid, serial, download)
        finally:
            download.finish(path)
        if not download.complete:
            raise POSKeyError('the server has no file of this blob', oid, serial)

    def discard(self, blobs: list[tuple[bytes, str]]) -> None:
        """Remove the files of a transaction that are not in the cache (B2)."""
        for _, path in blobs:
            self.directory.discard(path)

    def close(self) -> None:
        """Nothing is used any more."""
        self.directory.close()


class BlobsShared:
    """Blobs in the server's own directory: nothing is transferred but names."""

    def __init__(self, directory: SharedBlobs) -> None:
        self.directory = directory

    def store(self, begun: Begun, oid: bytes, serial: bytes, data: bytes, filename: str) -> None:
        """Put the file where the server finds it, and tell its base name."""
        path = self.directory.hand_over(oid, filename)
        begun.blobs.append((oid, path))
        begun.write('storeBlobShared', oid, data, serial, data, os.path.basename(path))

    def committed(self, blobs: list[tuple[bytes, str]], tid: bytes) -> None:
        """The server has renamed the files."""

    def discard(self, blobs: list[tuple[bytes, str]]) -> None:
        """Remove the files of a transaction that was not committed (B2)."""
        for _, path in blobs:
            self.directory.discard(path)

    def load(self, link: GetLink, oid: bytes, serial: bytes) -> str:
        """The path of a revision's file."""
        return self.directory.find(oid, serial)

    def open(self, link: GetLink, oid: bytes, serial: bytes, blob: Any) -> Any:
        """A revision's file, open for reading."""
        return open_blob(self.directory, self.directory.find(oid, serial), blob)

    def close(self) -> None:
        """Nothing is used any more."""


def open_blob(directory: BlobDirectory, path: str, blob: Any) -> Any:
    """The file `path`; as ZODB's BlobFile, which opens it itself, if it is opened for a Blob."""
    return directory.open(path) if blob is None else BlobFile(path, 'r', blob)


def told_size(link: Link, oid: bytes, serial: bytes) -> int | None:
    """The size of a blob, as the server tells it; None if it has none, or cannot tell."""
    if not link.offers(BLOB_SIZE):
        return None
    try:
        return link.channel.call(BLOB_SIZE, (oid, serial))  # type: ignore[no-any-return]
    except POSKeyError:
        return None
