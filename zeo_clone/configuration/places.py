"""What the storages of one server write to, and whether two of them, or of their sections, write to the same.

In: what a section has become, and names of files.  Out: places, and a complaint; and the storage, if what it
is to write to is there.  Asks the file system only which names are those of one file, and which are missing.
"""
from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import ZODB.config
from ZConfig.matcher import SectionValue

from zeo_clone.configuration.filestorage import FileStorageSection
from zeo_clone.loop.runtime import REAL
from zeo_clone.server.backend.abilities import check_whole

#: Keys of a section, by their attributes, that name a file or a directory of its storage's own.
PATH, BLOB_DIR, CACHE_PATH = {'path': 'path'}, {'blob_dir': 'blob-dir'}, {'cache_path': 'cache-path'}
FILE_STORAGES = (FileStorageSection, ZODB.config.FileStorage)


class Place(NamedTuple):
    """A file or directory, the key or option that names it, and the section where that is."""

    key: str
    path: str
    section: str = ''


def places_of(factory: Any) -> list[Place]:
    """Where the storage of a section writes, and those within it.  A reader may have what is another's."""
    section = getattr(factory, 'config', None)
    if not isinstance(section, SectionValue):
        return []
    values = {name: getattr(section, name) for name in section.getSectionAttributes()}
    found = [place for part in _parts(section) for place in places_of(part)]
    keys = CACHE_PATH  # a client that only reads writes there, too
    if not values.get('read_only'):
        if not values.get('shared_blob_dir'):  # that is another storage's
            keys = {**BLOB_DIR, **keys}
        if isinstance(factory, FILE_STORAGES):
            keys = {**PATH, **keys}  # of another package's storage it may be anything
    title = f'<{section.getSectionType()} {section.getSectionName() or ""}'.rstrip() + '>'
    found += [Place(key, value, title) for name, key in keys.items()
              if isinstance(value := values.get(name), str) and value]
    return found


def _parts(section: SectionValue) -> Iterator[Any]:
    for name in section.getSectionAttributes():
        value = getattr(section, name)
        yield from value if isinstance(value, list) else [value]


def open_section(factory: Any) -> Any:
    """The storage of a section.  Raises `NotWhole`, also for a file within, which ZODB opens."""
    _check_files(factory)
    return factory.open()


def _check_files(factory: Any) -> None:
    section = getattr(factory, 'config', None)
    if isinstance(section, SectionValue):
        for part in _parts(section):
            _check_files(part)
        if isinstance(factory, FILE_STORAGES) and not (section.create or section.read_only):
            check_whole(REAL, section.path, section.blob_dir)


def find_clash(storages: Iterable[tuple[str, Iterable[Place]]]) -> str | None:
    """What is wrong, if two of these named storages write to one place, or two sections within one."""
    seen: dict[object, tuple[str, Place]] = {}
    for name, places in storages:
        for place in places:
            other, its = seen.setdefault(_identity(place.path), (name, place))
            if its is not place:
                first, second = ((f'storages {other!r}', repr(name)) if other != name else
                                 (f'storage {name!r}: {its.section}', place.section))
                return (f'{first} ({its.key} {its.path}) and {second} ({place.key} {place.path}) '
                        f'would write to the same place; give each one of its own')
    return None


def _identity(path: str) -> object:
    """The same for all names of a file, whether it is there or not."""
    try:
        found = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    except ValueError:  # it is no file's name
        return path
    return found.st_dev, found.st_ino
