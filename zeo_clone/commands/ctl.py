"""zeoctl: start, stop and watch the server in the background, with zdaemon.

In: a command line, and the ``<runner>`` section of the same zeo.conf that the server reads.  Out: what
zdaemon does and says.  Without that section the program is the server with this very file.

zdaemon starts its watching process by running this command again, with a mark in the environment.  A server
can be stopped although its configuration has become wrong meanwhile: then only that section is read.
"""
from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import sys
from collections.abc import Sequence
from typing import Any

import ZConfig
from zdaemon import zdctl

from zeo_clone import __version__
from zeo_clone.commands.options import add_version
from zeo_clone.configuration import zconfig
from zeo_clone.configuration.explain import explain

PROGRAM = 'zeoctl'
#: Of zdaemon.
ACTIONS = ('start', 'stop', 'restart', 'status', 'fg', 'foreground', 'kill', 'wait', 'show', 'logtail',
           'logreopen', 'reopen_transcript', 'help')
#: What concerns a process that runs already.
OF_RUNNING = ('stop', 'status', 'kill', 'wait')
#: What starts one; of these, what keeps nothing of its output.
IN_BACKGROUND = ('start', 'restart')
STARTING = (*IN_BACKGROUND, 'fg', 'foreground')
#: Of the watching process, in the directory where it was started, unless it is said.
DEFAULT_SOCKET = 'zdsock'
RUNNER = re.compile(r'^\s*<runner\b.*?^\s*</runner>', re.MULTILINE | re.DOTALL | re.IGNORECASE)
DEFINITION = re.compile(r'^\s*%define\s.*$', re.MULTILINE | re.IGNORECASE)
#: Options that zdaemon knows and that have a place in its sections: what they take, what they say.
OPTIONS = [
    ('-C', '--configure', 'URL', 'configuration: file or URL'),
    ('-p', '--program', 'PROGRAM',
     'what to run; without a <runner> section it is the server with the same configuration'),
    ('-s', '--socket-name', 'PATH', 'socket of the watching process'),
    ('-t', '--transcript', 'FILE', "file for the server's output"),
    ('-z', '--directory', 'DIR', 'directory to run in'),
    ('-u', '--user', 'USER', 'user to run as'),
    ('-m', '--umask', 'MASK', 'umask to run with'),
    ('-b', '--backoff-limit', 'N', 'longest pause between two starts, in seconds'),
    ('-x', '--exit-codes', 'LIST', 'exit codes after which it is not started again'),
    ('-T', '--start-timeout', 'N', 'how long a start may take, in seconds'),
]


def command_line(prog: str = PROGRAM) -> argparse.ArgumentParser:
    """A parser that shows the options; zdaemon is who reads them."""
    parser = argparse.ArgumentParser(
        prog=prog, description='Control a server that runs in the background.  The <runner> section of its '
                               'configuration says how; options take the place of what that says.')
    for short, long, value, text in OPTIONS:
        parser.add_argument(short, long, metavar=value, help=text)
    parser.add_argument('-f', '--forever', action='store_true',
                        help='keep starting it, however often it ends')
    parser.add_argument('-d', '--daemon', action='store_true', help='detach from the terminal')
    parser.add_argument('action', choices=ACTIONS, metavar='ACTION',
                        help=f'{", ".join(ACTIONS)}; fg runs it in the foreground, kill takes a SIGNAL')
    parser.add_argument('signal', nargs='?', metavar='SIGNAL', help=argparse.SUPPRESS)
    add_version(parser)
    return parser


class Options(zdctl.ZDCtlOptions):  # type: ignore[misc]
    """zdctl's options, read by our schema."""

    schemadir = os.path.dirname(zconfig.SCHEMA)

    def __init__(self, prog: str) -> None:
        self._prog = prog
        self.program: list[str] | None = None
        super().__init__()
        self.required_map.pop('program', None)

    def load_configfile(self) -> None:
        """Called by zdaemon.  Complaints are those of runzeo."""
        try:
            super().load_configfile()
        except (ZConfig.ConfigurationError, ValueError) as error:
            complaint = explain(self.schema, error, self.configfile)
            if self.args[:1] not in [[action] for action in OF_RUNNING] or not self._load_runner():
                self.usage(complaint)
            print(f'Warning: {complaint}; only the <runner> section, if there is one, counts for '
                  f'{self.args[0]}', file=sys.stderr)

    def _load_runner(self) -> bool:
        """Read the <runner> section alone, with the definitions that it may use; whether that was done.

        Without one the watching process listens here, if there is one.
        """
        try:
            with open(self.configfile, encoding='utf-8') as file:
                text = file.read()
            section = RUNNER.search(text)
            if section is None and not self.sockname and not os.path.exists(DEFAULT_SOCKET):
                return False  # who knows where the watching process listens
            kept = [*DEFINITION.findall(text), '<zeo>\naddress 0\n</zeo>', section[0] if section else '']
            self.configroot, self.confighandlers = ZConfig.loadConfigFile(
                self.schema, io.StringIO('\n'.join(kept)), self.configfile)
        except (OSError, ValueError, ZConfig.ConfigurationError):
            return False
        return True

    def print_version(self, _: object) -> None:
        """Called by zdaemon: the version is ours."""
        print(f'{self._prog} (zeo_clone) {__version__}')
        sys.exit(0)

    def realize(self, *args: Any, **keywords: Any) -> None:
        """Read the command line and the configuration; exits with 2 if something is wrong."""
        keywords.update(doc=command_line(self._prog).format_help(), progname=self._prog)
        super().realize(*args, **keywords)
        if not hasattr(zdctl.ZDCmd, f'do_{self.args[0]}'):
            self.usage(f'there is no action {self.args[0]!r}; there are {", ".join(ACTIONS)}')
        if self.program is None:
            if self.configfile is None:
                self.usage('name a configuration with -C, or a program with -p')
            place = self.configfile if '://' in self.configfile else os.path.abspath(self.configfile)
            self.program = [sys.executable, '-m', 'zeo_clone', 'serve', '-C', place]
        if self.args[0] in STARTING:
            self._warn()
        if self.args[0] in IN_BACKGROUND and not self.directory:  # that may have to be made
            self._check_transcript()

    def _check_transcript(self) -> None:
        """End with a line if it could not be written: the watching process would end, heard by nobody."""
        directory = os.path.dirname(os.path.abspath(self.transcript))
        if not os.access(self.transcript if os.path.exists(self.transcript) else directory, os.W_OK):
            what = 'no permission to write in' if os.path.isdir(directory) else 'there is no directory'
            self.usage(f'cannot write the transcript {self.transcript}: {what} {directory}; name another one')

    def _warn(self) -> None:
        """Say what may surprise who starts a server, in a line each."""
        if not _is_ours(self.program or []):
            print(f'{self._prog}: what is started is none of our programs: {" ".join(self.program or [])}',
                  file=sys.stderr)
        if (self.daemon and self.transcript == os.devnull and self.configroot is not None
                and self.configroot.eventlog is None and self.args[0] in IN_BACKGROUND):
            print(f'{self._prog}: the log is lost: have an <eventlog> with a file, or a transcript (-t FILE)',
                  file=sys.stderr)


def _is_ours(program: Sequence[str]) -> bool:
    """Is it one of our commands, as far as one can see?  Those that pip has made name the package."""
    if any(re.match(r'zeo_clone\b', word) for word in program):
        return True
    try:
        with open(shutil.which(program[0]) or '', 'rb') as file:
            return b'zeo_clone' in file.read(4096)
    except (OSError, IndexError):
        return False


def main(args: Sequence[str] | None = None, prog: str = PROGRAM) -> Any:
    """Do what `args`, by default the command line, say.  Exits through ``SystemExit``.

    `prog` is the command's name in messages.
    """
    given = list(sys.argv[1:] if args is None else args)
    if not os.environ.get('DAEMON_MANAGER_MODE'):
        return zdctl.main(given, Options(prog))
    try:
        return zdctl.main(given)
    except OSError as error:  # its log, above all
        print(f'{prog}: cannot watch a server: {error}; see the <eventlog> and <runner> sections',
              file=sys.stderr)
        sys.exit(1)
