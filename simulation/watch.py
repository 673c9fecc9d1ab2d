"""A watch over a run: a thread that spins, and never lets another one have its turn, would hang it.

Virtual time and turns stand still then.  Real time does not: a timer of the system looks whether there was a
turn since it looked last, and ends the run where it is.
"""
from __future__ import annotations

import signal
import threading
import time
import traceback
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulation.kernel import Kernel

#: How often it is looked, in seconds of real time.
LOOK_S = 1.0
#: A turn takes microseconds.  One that takes so many seconds of processor time spins ...
SPINS_S = 10.0
#: ... and one that takes so many of real time waits for something that is not simulated.
WAITS_S = 600.0
#: So many calls are told of where it is.
CALLS = 12


class Spins(BaseException):
    """The run does not come to its next turn.  Nobody who is careless with exceptions catches it."""


class Watch:
    """Over the run of `kernel`, in the main thread; elsewhere nobody watches."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._before: Any = None
        self._turns = -1
        self._since = (0.0, 0.0)

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGALRM, self._look)
            signal.setitimer(signal.ITIMER_REAL, LOOK_S, LOOK_S)

    def __exit__(self, *exc_info: object) -> None:
        if self._before is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self._before)

    def _look(self, number: int, frame: FrameType | None) -> None:
        kernel, now = self._kernel, (time.process_time(), time.monotonic())
        if kernel.turns != self._turns:
            self._turns, self._since = kernel.turns, now
            return
        spent, waited = (one - since for one, since in zip(now, self._since, strict=True))
        if spent < SPINS_S and waited < WAITS_S:
            return
        self._since = now
        kernel.ending = True  # whoever is on the way out waits for nobody
        calls = ''.join(traceback.format_stack(frame)[-CALLS:])
        raise Spins(f'no turn has come to its end for {spent:.0f} s of processor time; '
                    f'{kernel.current or "the hub"} is at\n{calls}')
