"""Where zeo-status shows its reports: a terminal, on which each takes the place of the one before, or a file.

In: lines, some of them `Loud`.  Out: stdout.  On a terminal long lines are cut, with ``--watch`` also what
does not fit below, so that the head, where trouble is told, stays in sight; when there is no answer, the
last report stays.
"""
from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence

from zeo_clone.commands.statustable import Loud

#: What a terminal is told: go home, and clear from there on ...
CLEAR = '\033[H\033[J'
#: ... bold, bold and red, as before.
BOLD, BOLD_RED, PLAIN = '\033[1m', '\033[1;31m', '\033[0m'


class Screen:
    """Prints reports, one after the other if `watching`."""

    def __init__(self, watching: bool) -> None:
        self._terminal = sys.stdout.isatty()
        self._colours = not os.environ.get('NO_COLOR')
        self._watching = watching
        self._printed = 0
        self._last: tuple[Sequence[str], str] = (), ''

    def show(self, lines: Sequence[str], when: str = '') -> None:
        """A report; `when` it was made, as a text."""
        self._last = lines, when
        self._put(lines)

    def complain(self, line: str) -> None:
        """There is no answer: `line` says why."""
        lines, when = self._last
        loud: list[str] = [Loud(line, True)]
        if self._terminal and lines:
            self._put([*loud, f'what follows is from {when}', '', *lines])
        else:
            self._put(loud)

    def _put(self, lines: Sequence[str]) -> None:
        if self._terminal:
            # 0: it does not know (Python 3.10)
            columns, rows = shutil.get_terminal_size()
            if self._watching:
                lines = _cropped(lines, rows)
                print(CLEAR, end='')
            lines = [self._painted(line, columns) for line in lines]
        elif self._printed:
            print()
        self._printed += 1
        print('\n'.join(lines), flush=True)

    def _painted(self, line: str, columns: int) -> str:
        text = line[:columns or None]
        if not isinstance(line, Loud):
            return text
        return f'{BOLD_RED if line.bad and self._colours else BOLD}{text}{PLAIN}'


def _cropped(lines: Sequence[str], rows: int) -> Sequence[str]:
    """What fits, without the last row, where the cursor stands."""
    if not rows or len(lines) < rows:
        return lines
    kept = max(1, rows - 2)
    return [*lines[:kept], f'... and {len(lines) - kept} more lines']
