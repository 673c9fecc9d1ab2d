"""Identity: who a storage is to a server that it comes back to (C11).

A token from the system's source of secrets, so that nobody can pretend to be another client.
"""
from __future__ import annotations

from zeo_clone.loop.runtime import Runtime


class Identity:
    """Who this storage is to a server, over several connections, and the numbers of its transactions."""

    def __init__(self, runtime: Runtime) -> None:
        self.token = runtime.randbytes(16)
        self.number = 0  # of the last transaction; changed under the commit lock of `Committing`

    def next_number(self) -> int:
        """For a new transaction."""
        self.number += 1
        return self.number
