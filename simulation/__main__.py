"""The command line: ``python -m simulation``."""
from __future__ import annotations

import argparse
import ast
import contextlib
import itertools
import sys
import time
from collections.abc import Iterator
from typing import Any

from simulation.workers import Workers, processors  # isort: skip - it may have the product compiled anew

from simulation.plan import Plan
from simulation.planted import fits, library
from simulation.runs import Result, Wishes, shrink

#: How often the line of progress changes, in seconds.
PROGRESS_S = 0.2


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(
        prog='python -m simulation',
        description='Run server, clients, network and disks under a seeded clock, and look for what is '
                    'wrong. Exit code 1 if something is.')
    which = parser.add_mutually_exclusive_group()
    which.add_argument('--seeds', metavar='A..B', default='1..100', type=several_seeds,
                       help='run these seeds (default: 1..100)')
    which.add_argument('--seed', metavar='N', type=int, help='run one seed')
    which.add_argument('--list', action='store_true', help='list the planted bugs')
    parser.add_argument('--verbose', action='store_true', help='tell everything that happens, and the log')
    parser.add_argument('--minutes', metavar='M', type=float, help='stop after so many minutes')
    parser.add_argument('--jobs', metavar='N', type=int, default=0,
                        help='so many processes (default: as many as there are processors)')
    parser.add_argument('--planted', metavar='NAME', choices=['all', *library()],
                        help='plant a bug; stop when it is found ("all": each in turn)')
    parser.add_argument('--set', metavar='NAME=VALUE', action='append', default=[], type=field_of_plan,
                        help='a field of the plan (see simulation/plan.py)')
    parser.add_argument('--without', metavar='NAME', action='append', default=[],
                        help='leave out a kind of fault, or an operation')
    parser.add_argument('--lines', action='store_true', help='switch threads at any statement, too')
    parser.add_argument('--no-shrink', action='store_true', help='do not look for smaller runs that fail')
    return parser.parse_args()


def several_seeds(text: str) -> str:
    """``A..B``, ``A`` or ``A..``."""
    try:
        first = next(seeds_of(text), None)
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} are no seeds, as 1..100, 7 or 300..') from None
    if first is None:
        raise argparse.ArgumentTypeError(f'there are no seeds in {text!r}: the smaller one comes first')
    return text


def field_of_plan(text: str) -> tuple[str, Any]:
    """``NAME=VALUE``."""
    name, _, value = text.partition('=')
    if name not in Plan.__dataclass_fields__:
        raise argparse.ArgumentTypeError(f'a plan has no field {name!r}')
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        raise argparse.ArgumentTypeError(f'{value!r} is no value of Python, as 3, 0.5 or "file"') from None


class Screen:
    """Lines, and on a terminal a last one that changes."""

    def __init__(self) -> None:
        self._live = sys.stdout.isatty()
        self._told = 0.0

    def progress(self, text: str) -> None:
        """How far it is."""
        if self._live and time.monotonic() > self._told + PROGRESS_S:
            self._told = time.monotonic()
            print(f'\r\x1b[K{text}', end='', flush=True)

    def line(self, text: str) -> None:
        """Something to keep."""
        print(f'\r\x1b[K{text}' if self._live else text, flush=True)


class Campaign:
    """Many seeds."""

    def __init__(self, given: argparse.Namespace, screen: Screen, workers: Workers) -> None:
        self._screen = screen
        self._workers = workers
        self._given = given
        self._began = time.monotonic()
        self.runs = self.failed = self.transactions = 0

    @property
    def _is_over(self) -> bool:
        minutes = self._given.minutes
        return minutes is not None and time.monotonic() > self._began + 60 * minutes

    def run(self, seeds: Iterator[int], wishes: Wishes, until_found: bool = False) -> Result | None:
        """Run them; with `until_found` the first one that fails."""
        results = self._workers.results(seeds, wishes, self._given.verbose)
        with contextlib.closing(results):
            for result in results:
                self.runs += 1
                self.transactions += result.acknowledged
                if result.faults:
                    self.failed += 1
                    if until_found:
                        return result
                    self._show(result, wishes)
                self._screen.progress(f'seed {result.seed}, {self.summary()}')
                if self._is_over:
                    break
        return None

    def _show(self, result: Result, wishes: Wishes) -> None:
        line = self._screen.line
        line(result.line)
        for fault in result.faults[:5]:
            line(f'    {fault}')
        if not self._given.no_shrink and not self._given.verbose:
            result, wishes = shrink(result, wishes, line)
        line(f'    repeat it: {wishes.command(result.seed)} --verbose')

    def summary(self) -> str:
        """In a few words."""
        seconds = time.monotonic() - self._began
        return (f'{self.runs} runs, {self.failed} failed, {self.transactions} transactions, '
                f'{self.transactions / seconds:.0f} a second')


def seeds_of(text: str) -> Iterator[int]:
    """``A..B``, ``A`` or ``A..``."""
    first, dots, last = text.partition('..')
    if dots and not last:
        return itertools.count(int(first))
    return iter(range(int(first), int(last or first) + 1))


def main() -> int:
    """The exit code."""
    given, screen = arguments(), Screen()
    if given.list:
        for bug in library().values():
            print(f'{bug.name:28} {bug.about}')
        return 0
    wishes = Wishes(tuple(given.set), tuple(given.without))
    alone = given.verbose or given.seed is not None
    with contextlib.closing(Workers(1 if alone else given.jobs or processors())) as workers:
        campaign = Campaign(given, screen, workers)
        if given.planted:
            return _planted(given, wishes, campaign, screen)
        campaign.run(iter([given.seed]) if given.seed is not None else seeds_of(given.seeds), wishes)
        screen.line(campaign.summary())
        return 1 if campaign.failed else 0


def _planted(given: argparse.Namespace, wishes: Wishes, campaign: Campaign, screen: Screen) -> int:
    names = list(library()) if given.planted == 'all' else [given.planted]
    missed = 0
    for name in names:
        seeds = iter([given.seed]) if given.seed is not None else seeds_of(given.seeds)
        found = campaign.run(seeds, wishes._replace(bug=name), until_found=True)
        missed += found is None or not fits(found.faults[0])
        screen.line(f'{name}: not found' if found is None else
                    f'{name}: seed {found.seed}: {found.faults[0][:200]}' if fits(found.faults[0]) else
                    f'{name}: its patch does not fit: {found.faults[0][-300:]}')
    return 1 if missed else 0


if __name__ == '__main__':
    sys.exit(main())
