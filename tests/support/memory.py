"""How much memory another process has, now and at most; Linux only."""
from __future__ import annotations

from pathlib import Path


def resident_bytes(pid):
    """Bytes of physical memory that the process `pid` has now."""
    return _field(pid, 'VmRSS')


class Peak:
    """How far the memory of process `pid` rose while the block ran: ``bytes`` above that at the start."""

    def __init__(self, pid):
        self._pid = pid
        self._before = 0
        self.bytes = 0

    def __enter__(self):
        Path(f'/proc/{self._pid}/clear_refs').write_text('5')  # the highest figure is now the present one
        self._before = resident_bytes(self._pid)
        return self

    def __exit__(self, *_):
        self.bytes = _field(self._pid, 'VmHWM') - self._before


def _field(pid, name):
    for line in Path(f'/proc/{pid}/status').read_text().splitlines():
        if line.startswith(f'{name}:'):
            return int(line.split()[1]) * 1024
    raise LookupError(name)
