"""Bugs of blobs: on the server, on the way, in the cache of a client."""
from __future__ import annotations

from typing import Any

from simulation.planted import Patch, plant
from zeo_clone.client.blobdir import BlobCache
from zeo_clone.client.downloads import Download
from zeo_clone.server.backend.aside.relay import RelayBackend
from zeo_clone.server.backend.backend import Backend
from zeo_clone.server.backend.blobfiles import BlobFiles

#: Of a plan with blobs.
WORK = ('write_blob', 'read_blob', 'read_blob', 'transfer')


@plant('The file of a blob gets its name before it is synced (B11).', storage='file', blobs=2,
       operations=WORK, faults={'power_server': 2.0})
def blob_not_synced() -> list[Patch]:
    return [(BlobFiles, 'sync', lambda self, files, directories=(): None)]


@plant('The directories of blobs are not synced (B11).', storage='file', blobs=2, strict_disk=True,
       operations=WORK, faults={'power_server': 2.0})
def blob_directory_not_synced() -> list[Patch]:
    sync = BlobFiles.sync
    return [(BlobFiles, 'sync', lambda self, files, directories=(): sync(self, files))]


@plant('A downloaded blob gets its name in the cache before it is synced (B11).', storage='file', blobs=2,
       operations=WORK, faults={'power_client': 2.0})
def cached_blob_not_synced() -> list[Patch]:
    def keep(self: Any, path: str, download: Any) -> None:
        part = self.scratch.take('part')
        try:
            download(part)
            self._publish(part, path)
        finally:
            self.discard(part)
    return [(BlobCache, '_download', keep), (BlobCache, 'sync', lambda self, path: None)]


@plant('A download that did not come to its end is taken for whole.', storage='file', blobs=2,
       operations=WORK, large_blob=200_000, blob_cache_size=20_000, faults={'full_client': 3.0})
def download_cut_short() -> list[Patch]:
    return [(Download, 'finish', lambda self: self._file.close())]


@plant('What a killed server has left of uploads stays (B12).', storage='file', blobs=2, operations=WORK,
       faults={'kill_server': 1.0})
def leftovers_kept() -> list[Patch]:
    return [(BlobFiles, '_clear_up', lambda self, helper: None)]


@plant('A relay opens the file of its cache by name, when the clean-up may have removed it (B6).',
       storage='file', relay=True, blobs=3, clients=4, threads=3, operations=WORK, large_blob=70_000,
       blob_cache_size=20_000, think_s=0.0)
def relayed_blob_cleaned_up() -> list[Patch]:
    return [(RelayBackend, 'open_blob', Backend.open_blob)]


@plant('The temporary files of uploads that are not committed stay (B2).', storage='file', blobs=2,
       operations=(*WORK, 'abandon'))
def uploads_kept() -> list[Patch]:
    return [(BlobFiles, 'drop', lambda self, path: None)]
