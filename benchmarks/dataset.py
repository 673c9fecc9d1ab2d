"""The database that every measurement starts from: made once per run, then copied for each.

Out: a FileStorage of the objects 1 to N, records of a given size that `client` processes load and overwrite,
and a tree of as many small objects in ``root['small']``.  All of them are referred to, so a pack keeps them.
"""
from __future__ import annotations

import os
import shutil
from pathlib import Path

import transaction
from BTrees.IOBTree import IOBTree
from persistent.mapping import PersistentMapping
from ZODB import DB
from ZODB.FileStorage import FileStorage
from ZODB.utils import p64

from benchmarks.child.stores import record


class Dataset:
    """`objects` records of about `record_bytes` in ``directory / 'Data.fs'``; made when made."""

    def __init__(self, directory, objects, record_bytes):
        self.path = Path(directory) / 'Data.fs'
        payload = record_bytes - len(record(0))
        db = DB(FileStorage(str(self.path), create=True))
        connection = db.open()
        items = []
        for number in range(1, objects + 1):
            items.append(PersistentMapping({'payload': os.urandom(max(0, payload))}))
            connection.add(items[-1])
            if items[-1]._p_oid != p64(number):
                raise RuntimeError(f'object {number} got the oid {items[-1]._p_oid.hex()}')
        connection.root()['records'] = IOBTree(list(enumerate(items, 1)))
        transaction.commit()
        small = [(number, PersistentMapping({'n': number})) for number in range(objects)]
        connection.root()['small'] = IOBTree(small)
        transaction.commit()
        connection.close()
        db.close()

    def copy(self, directory):
        """Copy it into `directory`; returns the path of the copy."""
        for path in self.path.parent.glob('Data.fs*'):
            if path.suffix != '.lock':
                shutil.copy(path, directory)
        return os.path.join(directory, self.path.name)
