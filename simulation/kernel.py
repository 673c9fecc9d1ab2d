"""The kernel: a virtual clock, and tasks that take turns.

A task is a greenlet that stands for a thread of a simulated process.  One runs at a time, until it waits or
until the dice say that another one gets its turn; which one, the dice say.  Time passes a little with each
turn, and jumps to the next timer when everybody waits.  Everything that happens is added to the trace, whose
hash is the same whenever the same seed runs the same code.

In the order of calls: `Kernel.run` (the hub) switches to tasks; these come back by `park` or `give_way`.
Callbacks of timers run in the hub and never wait.
"""
from __future__ import annotations

import hashlib
import heapq
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import greenlet

from simulation.dice import Dice

if TYPE_CHECKING:
    from simulation.machine import Process

#: Turns of one run, after which it is taken to turn in circles.
MAX_TURNS = 3_000_000
#: What a turn takes, in seconds.
TURN_S = 2e-6
#: What it takes to ask for the time, in seconds.
LOOK_S = 5e-7
#: Without switches of its own accord a task asks so rarely whether there are any.
NEVER = 1 << 60


class Killed(greenlet.GreenletExit):  # type: ignore[misc]
    """The task's process is no more."""


class Stuck(Exception):
    """The run does not come to its end."""


class Timer:
    """A callback at its time, unless it is cancelled."""

    __slots__ = ('callback',)

    def __init__(self, callback: Callable[[], object] | None) -> None:
        self.callback = callback

    def cancel(self) -> None:
        """Nothing happens then."""
        self.callback = None


class Task:
    """A thread of `process`."""

    def __init__(self, kernel: Kernel, process: Process, target: Callable[[], object], name: str,
                 number: int) -> None:
        self.name = name
        self.number = number
        self.process = process
        self.kernel = kernel
        self.daemon = True
        self.waits_for: object = None  # what it is parked at, for people
        self.done = False
        self.woken = False
        self.parked = False
        self.joining: list[Task] = []
        self._target = target
        self.greenlet = greenlet.greenlet(self._run, kernel.hub)

    def __repr__(self) -> str:
        return f'<{self.process.name}/{self.name}, waits for {self.waits_for!r}>'

    def _run(self) -> None:
        kernel = self.kernel
        kernel.thread_begins()
        try:
            self._target()
        except greenlet.GreenletExit:
            pass
        except Exception as error:
            if not kernel.ending:
                kernel.died.append((self, error, traceback.format_exc()))
        finally:
            self.done = True
            self.process.tasks.pop(self, None)
            for waiting in self.joining:
                kernel.wake(waiting)

    # ---- as threads are used ----------------------------------------------------------------------

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end."""
        if not self.done:
            self.joining.append(self.kernel.current)
            self.kernel.park(timeout, self)

    def is_alive(self) -> bool:
        """Has it not ended?"""
        return not self.done


class Kernel:
    """Of one run.  `switchiness`: how often a task gives way where it need not."""

    def __init__(self, seed: object, switchiness: float = 0.05, *,
                 tell: Callable[[str], object] | None = None) -> None:
        self.dice = Dice(seed, 'kernel')
        self.hub = greenlet.getcurrent()
        self.now = 0.0
        self.turns = 0
        self.current: Any = None  # the task whose turn it is
        self.ending = False
        self.died: list[tuple[Task, Exception, str]] = []
        self.tell = tell
        self.thread_begins: Callable[[], object] = int  # called in each new greenlet
        self.graveyard: list[Process] = []  # processes that have ended
        self._switchiness = switchiness
        self._fuse = self._new_fuse()
        self.statements = 2000  # between two switches at most, where they are switched at
        self._statement_fuse = 1
        self._ready: list[Task] = []
        self._timers: list[tuple[float, int, Timer]] = []
        self._planned = 0
        self._born = 0
        self._trace = hashlib.blake2b(digest_size=8)

    # ---- the trace --------------------------------------------------------------------------------

    def note(self, *what: object) -> None:
        """Something has happened."""
        text = f'{self.now:.9f} {" ".join(map(str, what))}'
        self._trace.update(text.encode())
        if self.tell is not None:
            self.tell(text)

    @property
    def trace_hash(self) -> str:
        """Of all that has happened so far."""
        return self._trace.hexdigest()

    # ---- time -------------------------------------------------------------------------------------

    def look(self) -> float:
        """The time, which it takes some time to ask for."""
        self.now += LOOK_S
        return self.now

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        """Have the hub call `callback` in `delay_s` seconds."""
        timer = Timer(callback)
        self._planned += 1
        heapq.heappush(self._timers, (self.now + delay_s, self._planned, timer))
        return timer

    # ---- tasks ------------------------------------------------------------------------------------

    def spawn(self, process: Process, target: Callable[[], object], name: str) -> Task:
        """A new task, which gets its first turn later."""
        self._born += 1
        task = Task(self, process, target, name, self._born)
        process.tasks[task] = None
        self._ready.append(task)
        self.note('spawn', process.name, name)
        return task

    def give_way(self) -> None:
        """Perhaps another task gets its turn now."""
        self._fuse -= 1
        if self._fuse <= 0:
            self._fuse = self._new_fuse()
            self.switch()

    def give_way_at_statement(self) -> None:
        """The same, before any statement of the product: more rarely."""
        self._statement_fuse -= 1
        if self._statement_fuse <= 0:
            self._statement_fuse = 1 + self.dice.below(self.statements)
            self.switch()

    def switch(self) -> None:
        """Others may get their turns now."""
        task = self.current
        if task is not None and not self.ending:
            self._ready.append(task)
            self.hub.switch()

    def _new_fuse(self) -> int:
        if not self._switchiness:
            return NEVER
        return 1 + self.dice.below(int(2 / self._switchiness))

    def park(self, timeout: float | None, what: object) -> bool:
        """Wait until somebody wakes the task, or `timeout` seconds have passed: then False."""
        task = self.current
        if self.ending or task is None:
            raise Killed(f'nobody can wait for {what!r} any more')
        timer = None
        if timeout is not None:
            timer = self.call_later(max(0.0, timeout), lambda: self._ring(task))
        task.waits_for, task.woken, task.parked = what, False, True
        self.hub.switch()
        task.waits_for = None
        if timer is not None:
            timer.cancel()
        if self.ending:
            raise Killed
        return bool(task.woken)

    def wake(self, task: Task) -> None:
        """Let `task` go on."""
        if task.parked:
            task.parked, task.woken = False, True
            self._ready.append(task)

    def _ring(self, task: Task) -> None:
        if task.parked:
            task.parked = False
            self._ready.append(task)

    def sleep(self, seconds: float) -> None:
        """Of a task: let time pass."""
        self.park(seconds, f'{seconds:.6f} s')

    def resume(self, tasks: list[Task]) -> None:
        """They may have turns again."""
        self._ready += tasks

    # ---- the hub ----------------------------------------------------------------------------------

    def run(self, until: Callable[[], bool], limit_s: float) -> bool:
        """Let everybody have turns until `until()`; False after so many seconds of virtual time."""
        end = self.now + limit_s
        timers, ready = self._timers, self._ready
        while not until():
            if self.turns > MAX_TURNS:
                raise Stuck(f'{MAX_TURNS} turns, and no end')
            while timers and timers[0][0] <= self.now:
                callback = heapq.heappop(timers)[2].callback
                if callback is not None:
                    callback()
            if ready:
                self._turn(ready)
            elif timers:
                self.now = max(self.now, timers[0][0])
            else:
                return until()  # nothing will ever happen
            if self.now >= end:
                return until()
        return True

    def _turn(self, ready: list[Task]) -> None:
        chosen = self.dice.below(len(ready)) if len(ready) > 1 else 0
        task, ready[chosen] = ready[chosen], ready[-1]
        ready.pop()
        process = task.process
        if process.dead:
            return
        if process.paused:
            process.held.append(task)
            return
        self.turns += 1
        self.now += TURN_S
        self._trace.update(b'%d %.9f' % (task.number, self.now))
        self.current = task
        task.greenlet.switch()
        self.current = None

    def end(self, tasks: list[Task]) -> None:
        """The run is over: end what is left of tasks, dead processes' too.  They find that nothing works."""
        self.ending = True
        for task in tasks:
            if not task.done and task.greenlet:
                self.current = task
                task.greenlet.throw(Killed)
                if not task.greenlet.dead:
                    task.greenlet.throw(Killed)
        self.current = None
