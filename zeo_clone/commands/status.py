"""zeo-status: what a server does just now, for people, or as JSON.

In: a command line, the server's answers to `ruok`.  Out: a table on stdout, with ``--watch`` again and again;
an exit code.  Asks by a health check, which is cheap and leaves nothing in the server's log (N9).  With
``--disconnect`` a client is disconnected instead.
"""
from __future__ import annotations

import argparse
import datetime
import getpass
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence

from zeo_clone.addresses import Address, format_address, parse_address
from zeo_clone.commands import doctor, health
from zeo_clone.commands.health import NoAnswer, Refused, Status, ask
from zeo_clone.commands.options import add_version, argument, positive
from zeo_clone.commands.screen import Screen
from zeo_clone.commands.statustable import Loud, Sample, table
from zeo_clone.commands.tlsoptions import TLS, add_tls_options, tls_from
from zeo_clone.commands.top import busiest
from zeo_clone.loop.runtime import REAL
from zeo_clone.wording import clean, counted

PROGRAM = 'zeo-status'
NO_ANSWER, NOBODY_DISCONNECTED, FOUND = 1, 3, 4  # exit codes
TIMEOUT_S = 10.0
WATCH_S = 2.0
#: Without --watch what is told by --top has happened in so many seconds.
TOP_S = 1.0


def command_line(prog: str = PROGRAM) -> argparse.ArgumentParser:
    """The parser of zeo-status' options."""
    parser = argparse.ArgumentParser(
        prog=prog, description='Show what a server does: its storages, clients and commit lock.',
        epilog='Exit codes: 0 it answered, or the client was disconnected; 1 it did not answer; 2 the '
               'command line is wrong; 3 nobody was disconnected; 4 the doctor has found something.')
    parser.add_argument('address', metavar='ADDRESS', type=argument(parse_address),
                        help='PORT, HOST:PORT, [IPv6]:PORT, or the PATH of a unix socket, with a / in it')
    parser.add_argument('--json', action='store_true', help='print the answer as JSON, one line each time')
    parser.add_argument('--watch', nargs='?', const=WATCH_S, type=argument(positive), metavar='SECONDS',
                        help='do it again every so many seconds (2), with rates, until Ctrl-C')
    parser.add_argument('--top', action='store_true',
                        help='show which clients load and commit how much just now, and the objects that are '
                             'loaded most, with their classes')
    parser.add_argument('--doctor', action='store_true',
                        help='look at everything that can be wrong, and say in a line each what is and what '
                             'to do')
    parser.add_argument('--count', type=int, metavar='N', help='with --watch: N times')
    parser.add_argument('--timeout', type=argument(positive), default=TIMEOUT_S, metavar='SECONDS',
                        help='give up after this time without an answer; the default is 10')
    parser.add_argument('--disconnect', metavar='CLIENT',
                        help='disconnect this client: its address or its label as shown, or the word holder: '
                             'whoever holds the commit lock; nothing is done if several fit.  Through a unix '
                             "socket it is always possible for the server's own user, otherwise with "
                             'allow-disconnect in its configuration')
    parser.add_argument('--storage', metavar='NAME', help='with --disconnect: only a client of this storage')
    add_version(parser)
    add_tls_options(parser)
    return parser


#: Makes lines of a title, a sample and the one before.
Present = Callable[[str, Sample, 'Sample | None'], list[str]]


class Watcher:
    """Asks one server and keeps its last answer, to tell rates."""

    def __init__(self, address: Address, timeout_s: float, tls: TLS | None, as_json: bool,
                 interval_s: float | None, present: Present = table) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._tls = tls
        self._as_json = as_json
        self._interval_s = interval_s  # None: once
        self._present = present
        self._before: Sample | None = None
        self.answered = False  # the last time

    def report(self) -> list[str]:
        """The lines of a new report; of a complaint if there is no answer."""
        try:
            status = ask(self._address, self._timeout_s, self._tls)
        except NoAnswer as error:
            self._before, self.answered = None, False
            return [f'no answer from {error}']
        self.answered = True
        return [json.dumps(status)] if self._as_json else self._table(status)

    def _table(self, status: Status) -> list[str]:
        now = Sample(status, REAL.monotonic())
        before, self._before = self._before, now
        title = f'server at {format_address(self._address)}'
        if self._interval_s is not None:
            title += f', {clock()}, every {self._interval_s:g} s'
        return self._present(title, now, before)


def with_interval(args: Sequence[str]) -> list[str]:
    """`args` with a number after each ``--watch`` that is followed by something else, an address mostly:
    argparse would take that for the number."""
    found: list[str] = []
    for word, following in zip(args, [*args, ''][1:], strict=True):
        found.append(f'{word}={WATCH_S}' if word == '--watch' and not _is_number(following) else word)
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def clock() -> str:
    """The time of day, for people."""
    return datetime.datetime.fromtimestamp(REAL.time()).isoformat(' ', 'seconds')


def watch(watcher: Watcher, as_json: bool, interval_s: float, count: int | None) -> None:
    """Report every `interval_s` seconds, `count` times or until Ctrl-C."""
    screen, pause = Screen(watching=True), REAL.event()
    while count is None or count > 0:
        lines = watcher.report()
        if as_json:
            print(lines[0], file=sys.stdout if watcher.answered else sys.stderr, flush=True)
        elif watcher.answered:
            screen.show(lines, clock())
        else:
            screen.complain(lines[0])
        if count is not None:
            count -= 1
        if count != 0:
            pause.wait(interval_s)


def see_the_doctor(prog: str, given: argparse.Namespace, tls: TLS | None) -> int:
    """Say what is wrong and what to do; the exit code."""
    started = REAL.monotonic()
    try:
        status = ask(given.address, given.timeout, tls)
    except NoAnswer as error:
        print(f'{prog}: no answer from {error}', file=sys.stderr)
        return NO_ANSWER
    found = doctor.examine(status, REAL.monotonic() - started)
    if given.json:
        print(json.dumps([trouble._asdict() for trouble in found]))
    else:
        clients = sum(values.get('connections', 0) for values in status.values())
        Screen(watching=False).show([
            *(Loud(clean(f'{"ALARM" if trouble.bad else "warning"}: {trouble}. To do: {trouble.advice}'),
                   trouble.bad) for trouble in found),
            f'{len(found) or "nothing"} found at {counted(len(status), "storage")} with '
            f'{counted(clients, "client")}. Looked at: '
            f'{doctor.CHECKED}'])
    return FOUND if found else 0


def disconnect(prog: str, given: argparse.Namespace, tls: TLS | None) -> int:
    """Have a client disconnected; the exit code."""
    try:
        name = health.disconnect(given.address, given.disconnect, given.storage, user_here(), given.timeout,
                                 tls)
    except NoAnswer as error:
        print(f'{prog}: no answer from {error}', file=sys.stderr)
        return NO_ANSWER
    except Refused as error:
        print(f'{prog}: {clean(str(error))}', file=sys.stderr)
        return NOBODY_DISCONNECTED
    print(json.dumps({'disconnected': name}) if given.json else f'disconnected {clean(name)}')
    return 0


def user_here() -> str:
    """Who runs this, for the server's log."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # no name for the number
        user = f'uid {os.getuid()}'
    return f'{user} on {platform.node()}'


def complain_of_options(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """Exits with code 2 if options do not fit together."""
    for one, *others in (('disconnect', 'watch', 'top', 'doctor'), ('doctor', 'watch', 'top'),
                         ('top', 'json')):
        for other in others:
            if getattr(given, one) not in (None, False) and getattr(given, other) not in (None, False):
                parser.error(f'--{one} and --{other} exclude each other')
    if given.storage is not None and given.disconnect is None:
        parser.error('--storage is for --disconnect')


def main(args: Sequence[str] | None = None, prog: str = PROGRAM) -> int:
    """Report; the exit code.  `args` defaults to the command line, `prog` is its name in messages."""
    parser = command_line(prog)
    given = parser.parse_args(with_interval(sys.argv[1:] if args is None else args))
    try:
        tls = tls_from(given)
    except ValueError as error:
        parser.error(str(error))
    complain_of_options(parser, given)
    if given.disconnect is not None:
        return disconnect(parser.prog, given, tls)
    if given.doctor:
        return see_the_doctor(parser.prog, given, tls)
    watcher = Watcher(given.address, given.timeout, tls, given.json, given.watch,
                      busiest if given.top else table)
    try:
        if given.watch is not None:
            watch(watcher, given.json, given.watch, given.count)
        else:
            lines = watcher.report()
            if given.top and watcher.answered:
                REAL.event().wait(TOP_S)
                lines = watcher.report()
            if not watcher.answered:
                print(f'{prog}: {lines[0]}', file=sys.stderr)
                return 1
            Screen(watching=False).show(lines)
    except KeyboardInterrupt:
        return 0
    except BrokenPipeError:  # of head or less
        sys.stderr.close()
        return 0
    return 0 if watcher.answered else 1


if __name__ == '__main__':
    sys.exit(main())
