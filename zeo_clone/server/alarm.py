"""The log's share of trouble that no event tells: disks, clients that do not read, packs, certificates.

In: the status, now and then.  Out: a line of the log when trouble begins, with what to do, and one when it is
over.  What is trouble is what page and commands call so (`troubles`).  Loop thread only.
"""
from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from zeo_clone.loop.core import Loop
from zeo_clone.troubles import Trouble, find

log = logging.getLogger(__name__)

#: It is looked at so often, in seconds.
INTERVAL_S = 20.0
#: Other kinds are told by whoever notices them.
KINDS = frozenset({'disk', 'stalled', 'pack', 'tls'})


class Alarm:
    """The alarm of a server that is asked by `status`."""

    def __init__(self, loop: Loop, status: Callable[[], dict[str, dict[str, Any]]]) -> None:
        self._loop = loop
        self._status = status
        self._told: dict[tuple[str, str | None], Trouble] = {}  # by kind and storage

    def start(self) -> None:
        """Look from now on."""
        self._loop.call_later(INTERVAL_S, self._look)

    def _look(self) -> None:
        self.start()
        found = {(trouble.kind, trouble.storage): trouble for trouble in find(self._status())
                 if trouble.kind in KINDS}
        for key, trouble in found.items():
            if key not in self._told or self._told[key].bad is not trouble.bad:
                log.log(logging.ERROR if trouble.bad else logging.WARNING, '%s; to do: %s', trouble,
                        trouble.advice)
        for key, trouble in self._told.items():
            if key not in found:
                log.info('%s: it is over: %s', trouble.where, trouble.text)
        self._told = found
