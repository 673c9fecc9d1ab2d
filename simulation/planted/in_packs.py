"""Bugs of packs in a process of their own."""
from __future__ import annotations

from typing import IO, Any

from simulation.planted import Patch, plant
from zeo_clone.configuration import packer
from zeo_clone.server.backend.groupcommit import GroupCommitStorage

#: Packs, and not much else.
PACKS = {'storage': 'file', 'relay': False, 'packs': True, 'packer': True, 'think_s': 0.01,
         'operations': ('pack', 'pack', 'pack', 'pack', 'pack', 'transfer', 'register')}


@plant('A pack writes into the file that one of a killed server has left, whose process may write, too.',
       **PACKS, clients=4, faults={'orphan_packer': 0.7})
def file_of_killed_pack() -> list[Patch]:
    def keep(path: str) -> IO[bytes]:
        return packer.open(path, 'w+b')  # type: ignore[attr-defined,no-any-return]
    return [(packer, '_new', keep)]


@plant('What was committed while a pack waited for the commit lock is not copied.', **PACKS, faults={})
def rest_of_pack_too_early() -> list[Patch]:
    class Before:
        """The storage as it was when the other process had ended."""

        def __init__(self, storage: Any) -> None:
            self.size, self.storage = storage.getSize(), storage

        def __getattr__(self, name: str) -> Any:
            return getattr(self.storage, name)

        def getSize(self) -> int:
            return self.size  # type: ignore[no-any-return]

    begin = packer.Rest.__init__
    return [(packer.Rest, '__init__', lambda self, storage, *args: begin(self, Before(storage), *args))]


@plant('A packed file takes the place of one that is on the disk, and is not there itself.', **PACKS,
       faults={'power_server': 1.0})
def packed_file_not_synced() -> list[Patch]:
    def pack(self: Any, *args: Any) -> Any:
        return self._pack_file(*args)
    return [(GroupCommitStorage, 'packer', pack)]


@plant('The other process is not waited for, and its pipes stay open.', **PACKS, faults={})
def child_left() -> list[Patch]:
    return [(packer.Helper, '__exit__', lambda self, *exc_info: None)]
