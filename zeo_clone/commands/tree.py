"""The command lines of all commands as one parser: what their manuals and shells' completion are made from.

In: `COMMANDS`.  Out: a parser with a subparser for each command, whose options say where a file is meant.
"""
from __future__ import annotations

import argparse
import importlib

from zeo_clone.commands.main import COMMANDS, HELP, PROGRAM, VERSION, Command

#: What a value is called whose completion is a file's name, or a directory's.
FILES = ('FILE', 'FILENAME', 'PATH', 'URL', 'ZEO.CONF')
DIRECTORIES = ('DIR', 'DIRECTORY')


def command_line(name: str, command: Command) -> argparse.ArgumentParser:
    """The parser of a command."""
    made: argparse.ArgumentParser = importlib.import_module(command.module).command_line(f'{PROGRAM} {name}')
    return made


def whole() -> argparse.ArgumentParser:
    """The parser of zeo-clone with all commands."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description='Serve a ZODB to many processes.')
    parser.add_argument('--version', action='store_true', help=VERSION)
    commands = parser.add_subparsers(metavar='COMMAND', title='commands')
    for name, command in COMMANDS.items():
        own = command_line(name, command)
        commands.add_parser(name, parents=[own], add_help=False, prog=own.prog, help=command.summary,
                            description=own.description, epilog=own.epilog)
    commands.add_parser('help', help=HELP)
    return parser


def mark_files(parser: argparse.ArgumentParser, file: object, directory: object) -> None:
    """Give the options of a parser and its subparsers what shtab looks for: the attribute ``complete``."""
    for action in parser._actions:  # there is no public way to them
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                mark_files(below, file, directory)
        elif action.metavar in FILES or action.dest == 'trace':
            action.complete = file  # type: ignore[attr-defined]
        elif action.metavar in DIRECTORIES:
            action.complete = directory  # type: ignore[attr-defined]
