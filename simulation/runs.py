"""One run, and what is left of a run that fails when it is made smaller."""
from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from simulation import lines
from simulation.plan import Plan, draw
from simulation.planted import library, planted
from simulation.world import World

#: So many smaller runs are tried at most.
MOST_TRIES = 40


class Wishes(NamedTuple):
    """What a run should be like, besides its seed: fields of the plan, faults and operations to leave
    out, a planted bug."""

    fields: tuple[tuple[str, Any], ...] = ()
    without: tuple[str, ...] = ()
    bug: str | None = None

    def command(self, seed: int) -> str:
        """What repeats the run."""
        parts = [f'python -m simulation --seed {seed}']
        parts += [f'--set {shlex.quote(f"{name}={value!r}".replace(" ", ""))}' for name, value in self.fields]
        parts += [f'--without {kind}' for kind in self.without]
        parts += [f'--planted {self.bug}'] if self.bug else []
        parts += ['--lines'] if lines.is_installed() else []
        return ' '.join(parts)


NO_WISHES = Wishes()


class Result(NamedTuple):
    """What became of a run."""

    seed: int
    plan: Plan
    trace_hash: str
    acknowledged: int
    line: str
    faults: tuple[str, ...]


def run(seed: int, wishes: Wishes = NO_WISHES, tell: Callable[[str], object] | None = None) -> Result:
    """Run `seed`."""
    needs = library()[wishes.bug].needs if wishes.bug is not None else {}
    plan = draw(str(seed), {**needs, **dict(wishes.fields)}, wishes.without)
    with planted(wishes.bug), _quiet(tell is not None):
        world = World(plan, tell)
        lines.gives_way(world.kernel.give_way_at_statement)
        try:
            world.run()
        finally:
            lines.gives_way(None)
    book, kernel = world.book, world.kernel
    line = (f'seed {seed}: {kernel.trace_hash}, {book.acknowledged} committed, {book.conflicts} conflicts, '
            f'{book.refused} refused, {book.unknown} unknown, {world.faults.count} faults, '
            f'{len(book.seen)} snapshots, {kernel.now:.1f} s, {kernel.turns} turns')
    return Result(seed, plan, kernel.trace_hash, book.acknowledged, line, tuple(book.faults))


class _quiet:
    """The product's log is not told, unless somebody wants to know everything."""

    def __init__(self, loud: bool) -> None:
        self._loud = loud
        self._before = (logging.root.manager.disable, logging.root.level)
        self._handler = logging.StreamHandler(sys.stdout)
        self._handler.setFormatter(logging.Formatter('          log: %(levelname)s %(name)s %(message)s'))

    def __enter__(self) -> None:
        if self._loud:
            logging.root.setLevel(logging.DEBUG)
            logging.root.addHandler(self._handler)
        else:
            logging.disable(logging.CRITICAL)

    def __exit__(self, *exc_info: object) -> None:
        logging.disable(self._before[0])
        logging.root.setLevel(self._before[1])
        logging.root.removeHandler(self._handler)


def shrink(result: Result, wishes: Wishes, tell: Callable[[str], object]) -> tuple[Result, Wishes]:
    """A smaller run that fails, too: fewer faults, clients, threads, transactions, operations."""
    tries = 0
    progress = True
    while progress and tries < MOST_TRIES:
        progress = False
        for smaller in _smaller(result.plan, wishes):
            tries += 1
            found = run(result.seed, smaller)
            if found.faults:
                tell(f'    smaller: {smaller.command(result.seed)}')
                result, wishes, progress = found, smaller, True
                break
            if tries >= MOST_TRIES:
                break
    return result, wishes


def _smaller(plan: Plan, wishes: Wishes) -> Iterator[Wishes]:
    fields = dict(wishes.fields)

    def with_field(name: str, value: Any) -> Wishes:
        return wishes._replace(fields=tuple({**fields, name: value}.items()))

    for kind in sorted(plan.faults):
        yield wishes._replace(without=(*wishes.without, kind))
    if plan.clients > 1:
        yield with_field('clients', plan.clients - 1)
    if plan.threads > 1:
        yield with_field('threads', 1)
    if plan.transactions > 10:
        yield with_field('transactions', plan.transactions // 2)
    operations = sorted(set(plan.operations))
    for operation in operations if len(operations) > 1 else ():
        yield wishes._replace(without=(*wishes.without, operation))
