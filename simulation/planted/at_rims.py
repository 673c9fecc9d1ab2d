"""Bugs at the rims: restored backups, storages that fail at the end."""
from __future__ import annotations

from typing import Any

from simulation.planted import Patch, plant
from zeo_clone.client.verification import Verification
from zeo_clone.server.served import ServedStorage


@plant('A client that has seen more than the server has goes on with what it has (C22).', storage='file',
       packs=False, persistent=True, faults={'restore_server': 4.0})
def another_past_believed() -> list[Patch]:
    def believe(self: Any, what: str, and_what: str, for_sure: bool) -> None:
        self._verified()
    return [(Verification, '_another_past', believe)]


@plant('What a storage raises in tpc_finish is told as it is (C24).', faults={'raise_storage': 0.2})
def finish_told_bare() -> list[Patch]:
    return [(ServedStorage, 'finish', lambda self, commit: commit.finish())]
