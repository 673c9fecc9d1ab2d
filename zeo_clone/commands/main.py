"""zeo-clone: all commands under one name that no other package has.

In: a command line whose first word says which one.  Out: what that command does, says and returns.  The
classic names (``runzeo``, ``zeopack``, ...) are the same functions; real ZEO installs such names too.
"""
from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from zeo_clone import __version__

PROGRAM = 'zeo-clone'
HELP = 'say which commands there are'
VERSION = 'say which version of zeo_clone this is'
USAGE_ERROR = 2


class Command(NamedTuple):
    """A subcommand: the module whose ``main(args, prog)`` does it, a summary, options put before others."""

    module: str
    summary: str
    options: tuple[str, ...] = ()


COMMANDS = {
    'serve': Command('zeo_clone.commands.serve', 'serve storages (runzeo)'),
    'check': Command('zeo_clone.commands.serve', 'say whether the options of serve are right', ('--check',)),
    'status': Command('zeo_clone.commands.status', 'show what a server does just now (zeo-status)'),
    'pack': Command('zeo_clone.commands.pack', 'pack storages (zeopack)'),
    'nagios': Command('zeo_clone.commands.nagios', 'check a server for a monitoring system (zeo-nagios)'),
    'ctl': Command('zeo_clone.commands.ctl', 'start, stop and watch a server in the background (zeoctl)'),
    'cache-stats': Command('zeo_clone.commands.cache_stats', 'say how well a client cache did'),
    'cache-simulate': Command('zeo_clone.commands.cache_simulate', 'say what other sizes of it would bring'),
    'alias': Command('zeo_clone.alias', 'let "import ZEO" find zeo_clone in this environment'),
    'completion': Command('zeo_clone.commands.completion', 'print a completion script for a shell'),
    'man': Command('zeo_clone.commands.man', 'write manual pages of all commands'),
}


def help_text() -> str:
    """What ``zeo-clone --help`` prints."""
    width = max(map(len, COMMANDS))
    lines = [f'  {name:{width}}  {command.summary}' for name, command in COMMANDS.items()]
    return '\n'.join([f'usage: {PROGRAM} COMMAND [options]', '', 'Serve a ZODB to many processes.', '',
                      'commands (the classic name in parentheses):', *lines, '',
                      'first steps:', f'  {PROGRAM} serve -a localhost:9100 -f Data.fs',
                      '  then, in another Python: import zeo_clone; '
                      "connection = zeo_clone.connection(('localhost', 9100))", '',
                      f'{PROGRAM} COMMAND --help tells more; {PROGRAM} --version says which one this is.'])


def main(args: Sequence[str] | None = None) -> int:
    """Run a command; its exit code, 2 if there is none of that name.  `args` defaults to the command line."""
    given = list(sys.argv[1:] if args is None else args)
    if os.environ.get('DAEMON_MANAGER_MODE'):  # zdaemon starts its watching process by the program it runs in
        given.insert(0, 'ctl')
    name, *rest = given or ['']
    if name in ('-h', '--help', 'help'):
        print(help_text())
        return 0
    if name == '--version':
        print(f'{PROGRAM} (zeo_clone) {__version__}')
        return 0
    command = COMMANDS.get(name)
    if command is None:
        what = f'there is no command {name!r:.100}' if name else 'a command is missing'
        print(f'{PROGRAM}: {what}; there are {", ".join(COMMANDS)}; {PROGRAM} --help tells more',
              file=sys.stderr)
        return USAGE_ERROR
    code: int = importlib.import_module(command.module).main([*command.options, *rest], f'{PROGRAM} {name}')
    return code
