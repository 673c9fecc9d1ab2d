"""zeo-nagios: check a server for Nagios, Icinga and other monitors that understand their plugins.

In: a command line, the server's answer, with ``-s`` the answer of the last time.  Out: one line or more on
stdout and an exit code: 0 all is well, 1 warning, 2 critical.  Takes no longer than its time-out.
"""
from __future__ import annotations

import argparse
import contextlib
import json
import os
from collections.abc import Sequence
from typing import Any

from zeo_clone.addresses import Address, parse_address
from zeo_clone.commands.health import NoAnswer, Status, ask
from zeo_clone.commands.options import add_version, argument, positive
from zeo_clone.commands.tlsoptions import add_tls_options, tls_from
from zeo_clone.loop.runtime import REAL, Runtime
from zeo_clone.troubles import Trouble, find
from zeo_clone.wording import clean

PROGRAM = 'zeo-nagios'
OK, WARNING, CRITICAL = 0, 1, 2
TIMEOUT_S = 10.0
#: Keys that are told as they are, and those of which ``-s`` makes rates.
LEVELS = ('active_txns', 'connections', 'waiting')
COUNTERS = ('aborts', 'commits', 'conflicts', 'conflicts_resolved', 'loads', 'stores')
UNITS_S = {'seconds': 1, 'minutes': 60, 'hours': 3600, 'days': 86400}
NO_TRANSACTION = '0' * 16


def command_line(prog: str = PROGRAM) -> argparse.ArgumentParser:
    """The parser of zeo-nagios' options; mistakes exit with 2, which is critical."""
    parser = argparse.ArgumentParser(
        prog=prog, description='Check a server, as a plugin for Nagios.',
        epilog='Exit codes: 0 all is well; 1 a storage is empty, or something is to be looked at, such as a '
               'commit lock that is held, a client that does not read, a disk that fills up; 2 the server '
               'cannot be reached or does not answer in time, a storage has failed, commits stand still, a '
               'disk is full.')
    parser.add_argument('address', metavar='ADDRESS', type=argument(parse_address),
                        help='PORT, HOST:PORT, [IPv6]:PORT, or the PATH of a unix socket, with a / in it')
    parser.add_argument('-m', '--output-metrics', action='store_true',
                        help='add performance data: ' + ', '.join(LEVELS))
    parser.add_argument('-s', '--status-path', metavar='FILE',
                        help='keep counters in FILE from one call to the next, for rates (with -m) of '
                             + ', '.join(COUNTERS))
    parser.add_argument('-u', '--time-units', choices=list(UNITS_S), default='minutes',
                        help='rates are per second, minute, hour or day; the default is minutes')
    parser.add_argument('--timeout', type=argument(positive), default=TIMEOUT_S, metavar='SECONDS',
                        help='give up after this time; the default is 10')
    add_version(parser)
    add_tls_options(parser)
    return parser


def judge(status: Status) -> tuple[list[str], int]:
    """What is remarkable, in words, and the exit code."""
    if not status:
        return ['The server has no storage'], CRITICAL
    messages, code = [], OK
    for trouble in find(status):
        messages.append(_in_words(trouble))
        code = max(code, CRITICAL if trouble.bad else WARNING)
    for name, values in sorted(status.items()):
        if values.get('last-transaction') == NO_TRANSACTION and not values.get('failed'):
            messages.append(f'Empty storage {name!r}')
            code = max(code, WARNING)
    return messages or ['OK'], code


def _in_words(trouble: Trouble) -> str:
    """A line for the monitor, for which a | ends the text."""
    where = 'Server' if trouble.storage is None else f'Storage {trouble.storage!r}'
    return clean(f'{where}: {trouble.text}').replace('|', '/')


def levels(status: Status) -> list[str]:
    """Performance data of the moment."""
    return [f'{_prefix(name)}{key}={values.get(key, 0)}'
            for name, values in sorted(status.items()) for key in LEVELS]


def rates(status: Status, before: Status, elapsed_s: float, unit_s: float) -> list[str]:
    """Performance data of the time since `before`, which is `elapsed_s` ago."""
    return [f'{_prefix(name)}{key}={_difference(values, before[name], key) / elapsed_s * unit_s}'
            for name, values in sorted(status.items()) if name in before for key in COUNTERS]


def _difference(values: dict[str, int], before: dict[str, int], key: str) -> int:
    now, then = values.get(key, 0), before.get(key, 0)
    return now - then if now >= then else now  # less: the server has been started anew


def _prefix(name: str) -> str:
    return '' if name == '1' else f'{name}:'


class History:
    """The answer of the last time, in a file."""

    def __init__(self, path: str, runtime: Runtime = REAL) -> None:
        self._path = path
        self._runtime = runtime

    def read(self) -> tuple[Status, float] | None:
        """The answer and its age in seconds; None if there is none that can be used."""
        try:
            with open(self._path, encoding='utf-8') as file:
                status = json.load(file)
                age_s = self._runtime.time() - os.fstat(file.fileno()).st_mtime
        except (OSError, ValueError):
            return None
        usable = isinstance(status, dict) and all(isinstance(v, dict) for v in status.values())
        return (status, age_s) if usable and age_s > 0 else None

    def write(self, status: Status) -> None:
        """Keep `status` for the next time; a reader sees all of it or nothing.  Raises ``OSError``."""
        temporary = f'{self._path}.{self._runtime.randbytes(8).hex()}.tmp'
        kept = {name: {key: values.get(key, 0) for key in COUNTERS} for name, values in status.items()}
        try:
            with open(temporary, 'w', encoding='utf-8') as file:
                json.dump(kept, file)
            os.replace(temporary, self._path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise


def report(messages: list[str], metrics: list[str]) -> str:
    """The text for the monitor: message and first metric in line 1, as its plugin interface has it."""
    if not metrics:
        return '\n'.join(messages)
    first, *rest = metrics
    lines = [f'{messages[0]}|{first}', *messages[1:]]
    return '\n'.join(lines) + '\n| ' + '\n '.join(rest)


def check(addr: Any, output_metrics: bool = False, status: str | None = None, per: str = 'minutes',
          timeout_s: float = TIMEOUT_S, tls: Any = None) -> int:
    """Check the server at `addr`, print the report, and return the exit code.

    `addr` is an address in any form; `status` a file that keeps counters for rates `per` a unit of time;
    `tls` an ``ssl.SSLContext``.
    """
    try:
        text, code = _examine(parse_address(addr), output_metrics, status, UNITS_S[per], timeout_s, tls)
    except NoAnswer as error:
        text, code = f"Can't connect {error}", CRITICAL
    except OSError as error:
        text, code = f'Cannot keep the status: {error}', CRITICAL
    except ValueError as error:
        text, code = f'Bad option: {error}', CRITICAL
    print(text)
    return code


def _examine(address: Address, output_metrics: bool, status_path: str | None, unit_s: float, timeout_s: float,
             tls: Any) -> tuple[str, int]:
    status = ask(address, timeout_s, tls)
    messages, code = judge(status)
    metrics = levels(status) if output_metrics else []
    if status_path:
        history = History(status_path)
        before = history.read()
        history.write(status)
        if before is not None and output_metrics:
            metrics += rates(status, *before, unit_s)
    return report(messages, metrics), code


def main(args: Sequence[str] | None = None, prog: str = PROGRAM) -> int:
    """Check; print the report; the exit code.  `args` defaults to the command line, `prog` is its name."""
    given = command_line(prog).parse_args(args)
    try:
        tls = tls_from(given)
    except ValueError as error:
        print(f'Bad option: {error}')
        return CRITICAL
    return check(given.address, given.output_metrics, given.status_path, given.time_units, given.timeout, tls)
