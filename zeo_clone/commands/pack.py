"""zeopack: pack storages of one or several servers.

In: a command line.  Out: an exit code, 0 if every storage was packed, else 1, 2 for mistakes on the
command line, and 130 after Ctrl-C; complaints on stderr, and progress, if that is a terminal.  One server
after another is packed; all are connected to at once, so that servers that cannot be reached cost the
time-out once.
"""
from __future__ import annotations

import argparse
import datetime
import re
import sys
from collections.abc import Sequence

from zeo_clone.addresses import parse_address
from zeo_clone.commands.options import add_version, argument, positive
from zeo_clone.commands.packing import Packer, PackError, Target
from zeo_clone.commands.tlsoptions import add_tls_options, tls_from
from zeo_clone.loop.runtime import REAL

PROGRAM = 'zeopack'
TIMEOUT_S = 60.0
INTERRUPTED = 130  # exit code, as of shells after Ctrl-C
DEFAULT_STORAGE = '1'
DEFAULT_HOST, DEFAULT_PORT = 'localhost', 9100
DAY_S = 86400
#: Before that storages know no time, and they tell it in their own words.
MAX_DAYS = 20_000
#: An address with the name of a storage after it.
SERVER = re.compile(r'(?P<address>(?:\[.*\]|[^:]*):\d+):(?P<name>.+)')
TIME = re.compile(r'(\d{1,2})(?::(\d{1,2}))?(?::(\d{1,2}))?', re.ASCII)


def server(text: str) -> Target:
    """``host:port[:name]`` or ``port``.  Raises ``ValueError``."""
    found = SERVER.fullmatch(text)
    if found is None:
        return Target(parse_address(text), DEFAULT_STORAGE)
    return Target(parse_address(found['address']), found['name'])


def unix(text: str) -> Target:
    """``path[:name]``.  Raises ``ValueError``."""
    directory, slash, last = text.rpartition('/')
    last, _, name = last.partition(':')
    path = directory + slash + last
    return Target(parse_address(path if '/' in path else f'./{path}'), name or DEFAULT_STORAGE)


def time_of_day(text: str) -> datetime.time:
    """``HH[:MM[:SS]]``.  Raises ``ValueError``."""
    found = TIME.fullmatch(text)
    try:
        hour, minute, second = (int(number or 0) for number in found.groups()) if found else (24, 0, 0)
        return datetime.time(hour, minute, second)
    except ValueError:
        raise ValueError(f'{text!r} is not a time of day: HH, HH:MM or HH:MM:SS') from None


def command_line(prog: str = PROGRAM) -> argparse.ArgumentParser:
    """The parser of zeopack's options."""
    parser = argparse.ArgumentParser(
        prog=prog, add_help=False,
        description='Pack storages: remove what is not needed to show the database as it was at a time, or '
                    'later.',
        epilog='Exit codes: 0 everything was packed; 1 something was not; 2 the command line is wrong; 130 '
               'it was interrupted.')
    parser.add_argument('servers', metavar='HOST:PORT[:NAME]', nargs='*', type=argument(server),
                        help='server and name of a storage; the default is 1')
    parser.add_argument('-u', '--unix', metavar='PATH[:NAME]', action='append', type=argument(unix),
                        default=[], help='the same for a server at a unix socket; may be repeated')
    parser.add_argument('-d', '--days', type=argument(_days), default=0.0,
                        help='keep what is younger than so many days; the default is 0')
    parser.add_argument('-t', '--time', type=argument(time_of_day), metavar='HH[:MM[:SS]]',
                        help='local time of the day to pack to; the default is now')
    parser.add_argument('--timeout', type=argument(positive), metavar='SECONDS', default=TIMEOUT_S,
                        help='give a server up after this time without an answer; the default is 60')
    parser.add_argument('--help', action='help', help='print this text')
    old = parser.add_argument_group('Old options', 'One server, in the way of old versions.')
    old.add_argument('-h', '--host', help=f'host; the default is {DEFAULT_HOST}')
    old.add_argument('-p', '--port', type=int, help=f'port; the default is {DEFAULT_PORT}')
    old.add_argument('-U', '--unix-socket', metavar='PATH', help='unix socket, in place of host and port')
    old.add_argument('-S', '--storage', metavar='NAME', help='storage; the default is 1')
    add_version(parser)
    add_tls_options(parser)
    return parser


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = -1.0
    if not 0 <= days <= MAX_DAYS:
        raise ValueError(f'{text!r} is not a number of days, from 0 to {MAX_DAYS:,}')
    return days


def targets(given: argparse.Namespace) -> list[Target]:
    """What is to be packed.  Raises ``ValueError``."""
    found = [*given.servers, *given.unix]
    name = given.storage or DEFAULT_STORAGE
    if given.unix_socket is not None:
        if given.host is not None or given.port is not None:
            raise ValueError('-U cannot be combined with -h and -p')
        found.append(unix(given.unix_socket)._replace(storage=name))
    elif given.host is not None or given.port is not None:
        port = DEFAULT_PORT if given.port is None else given.port
        found.append(Target(parse_address((given.host or DEFAULT_HOST, port)), name))
    elif given.storage is not None:
        raise ValueError('-S goes with -h, -p or -U; name the storage as HOST:PORT:NAME')
    if not found:
        raise ValueError('nothing to pack: name a server as HOST:PORT, or with -u as PATH')
    return list(dict.fromkeys(found))


def pack_time(days: float, time: datetime.time | None, now: float) -> float:
    """The time to pack to, in seconds since the epoch; `now` is the present."""
    if time is not None:
        now = datetime.datetime.combine(datetime.datetime.fromtimestamp(now), time).timestamp()
    return now - days * DAY_S


class Terminal:
    """Progress on stderr: one line that is written again and again, if it is a terminal."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()

    def show(self, line: str) -> None:
        """Show a line until the next one comes."""
        if self._shown:
            print(f'\r\033[K{line}', end='', file=sys.stderr, flush=True)

    def keep(self, line: str) -> None:
        """Print a line that stays."""
        if self._shown:
            print(f'\r\033[K{line}', file=sys.stderr)

    def complain(self, line: str) -> None:
        """Print a line that stays, whether or not there is a terminal."""
        print(f'{chr(13)}\033[K{line}' if self._shown else line, file=sys.stderr)


def main(args: Sequence[str] | None = None, prog: str = PROGRAM) -> int:
    """Pack; the exit code.  `args` defaults to the command line, `prog` is the command's name in messages."""
    parser = command_line(prog)
    given = parser.parse_args(args)
    try:
        found, tls = targets(given), tls_from(given)
    except ValueError as error:
        parser.error(str(error))
    time, terminal = pack_time(given.days, given.time, REAL.time()), Terminal()
    try:
        packers = [Packer(target, given.timeout, tls) for target in found]
        packed = [pack(packer, time, terminal, prog) for packer in packers]
    except KeyboardInterrupt:
        terminal.complain(f'{prog}: interrupted; zeo-clone status tells whether a server goes on packing')
        return INTERRUPTED
    return 0 if all(packed) else 1


def pack(packer: Packer, time: float, terminal: Terminal, prog: str = PROGRAM) -> bool:
    """Pack one target; whether that worked."""
    try:
        terminal.keep(packer.pack(time, terminal.show))
    except PackError as error:
        terminal.complain(f'{prog}: {error}')
        return False
    return True
