"""A clean-up of a blob cache at the worst moment: between a file's name and its opening.

    server = new_server(storages, runtime=Cleaning(directory))
"""
from __future__ import annotations

import os

from ZODB.blob import Blob
from ZODB.Connection import TransactionMetaData
from ZODB.tests.StorageTestBase import zodb_pickle
from ZODB.utils import p64, z64

from zeo_clone.loop.runtime import Runtime


class Cleaning(Runtime):
    """Whatever is opened below `directory` for reading, by its name, has just been removed."""

    def __init__(self, directory):
        self._directory = str(directory)

    def open(self, path, mode, buffering=-1):
        if mode == 'rb' and path.startswith(self._directory) and path.endswith('.blob'):
            os.remove(path)
        return super().open(path, mode, buffering)


def store_blob(client, directory):
    """Commit the blob 1, of the bytes ``content``; its serial."""
    path = directory / 'upload.blob'
    path.write_bytes(b'content')
    begun = TransactionMetaData()
    client.tpc_begin(begun)
    client.storeBlob(p64(1), z64, zodb_pickle(Blob()), str(path), '', begun)
    client.tpc_vote(begun)
    return client.tpc_finish(begun)
