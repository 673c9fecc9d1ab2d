"""``<filestorage>`` of a zeo.conf: how a FileStorage is opened that is served as it is.

In: the section, as ZODB's schema has it.  Out: when asked, the storage.  Belongs to whoever opens storages.
"""
from __future__ import annotations

from importlib import import_module
from typing import Any

import ZODB.config

from zeo_clone.configuration.packer import pack
from zeo_clone.loop.runtime import REAL

#: Keys of the section that FileStorage knows under the same names.
KEYWORDS = ('blob_dir', 'create', 'read_only', 'quota', 'pack_gc', 'pack_keep_old')


def open_file(path: str, group_commit: bool = True, **keywords: Any) -> Any:
    """The FileStorage at `path`, made if need be; with `group_commit` its commits can share syncs, and it
    is packed by a process of its own.
    """
    if group_commit:
        from zeo_clone.server.backend.groupcommit import GroupCommitStorage
        return GroupCommitStorage(path, **{'packer': pack, **keywords})
    from ZODB.FileStorage import FileStorage

    from zeo_clone.server.backend.abilities import check_whole
    if not keywords.get('create'):
        check_whole(REAL, path, keywords.get('blob_dir'))
    return FileStorage(path, **keywords)


class FileStorageSection:
    """Stands for ZODB's factory of a FileStorage: the same keys."""

    def __init__(self, factory: ZODB.config.FileStorage) -> None:
        self.config = factory.config
        if not self.config.path:
            raise ValueError("the 'path' of a <filestorage> is empty: name a file")
        self.name: str | None = factory.name

    def open(self) -> Any:
        """The storage, with group commits."""
        keywords = {name: value for name in KEYWORDS
                    if (value := getattr(self.config, name, None)) is not None}
        if self.config.packer:
            keywords['packer'] = packer(self.config.packer)
        return open_file(self.config.path, **keywords)


def packer(text: str) -> Any:
    """What the key ``packer`` means: ``module.name``, or ``module:expression``."""
    module, colon, expression = text.partition(':')
    if colon:
        return eval(expression, vars(import_module(module)))
    module, _, name = text.rpartition('.')
    return getattr(import_module(module), name)


def with_group_commit(factory: Any) -> Any:
    """`factory`, or what takes its place if it is one of a FileStorage."""
    return FileStorageSection(factory) if type(factory) is ZODB.config.FileStorage else factory
