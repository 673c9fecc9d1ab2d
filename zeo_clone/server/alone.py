"""A RelStorage on SQLite, as it is served: by this server alone.

In and out: as in `served`.  Loop thread only, apart from `status`.
"""
from __future__ import annotations

from typing import Any

from zeo_clone.server.aside import ServedAside
from zeo_clone.server.backend.aside.alone import AloneBackend
from zeo_clone.server.backend.database.alone import alone
from zeo_clone.server.backend.guard import Guard


class ServedAlone(ServedAside):
    """Raises ValueError if it cannot be served, and ``LockError`` if another server has it."""

    takes_z4 = False

    def _make_backend(self, storage: Any, guard: Guard) -> Any:
        if self._by_clients:
            raise ValueError('conflicts in a database are resolved by the server: remove '
                             'client-conflict-resolution, or set it to false')
        database = alone(storage, self.loop.runtime)
        try:
            return AloneBackend(self.loop, self.name, database, guard, self.stats)
        except BaseException:
            database.close()
            raise
