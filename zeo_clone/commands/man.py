"""zeo-clone man: manual pages of all commands.

In: a directory.  Out: ``zeo-clone.1``, ``zeo-clone-serve.1``, ... in it, which argparse-manpage makes
from the parsers.
"""
from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from zeo_clone import __version__
from zeo_clone.commands.main import COMMANDS, PROGRAM
from zeo_clone.commands.options import add_version
from zeo_clone.commands.tree import command_line as command_line_of
from zeo_clone.commands.tree import whole


def command_line(prog: str = f'{PROGRAM} man') -> argparse.ArgumentParser:
    """The parser of its options."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description='Write manual pages of all commands: zeo-clone.1, zeo-clone-serve.1 and so on.',
        epilog='In ~/.local/share/man/man1 they are found by man zeo-clone, and man zeo-clone-serve.')
    parser.add_argument('directory', metavar='DIRECTORY', help='where to; made if it is not there')
    add_version(parser)
    return parser


def pages() -> Iterator[tuple[str, str]]:
    """Name and text of each page.  Raises ImportError without argparse-manpage."""
    from argparse_manpage.manpage import Manpage
    about = {'project_name': 'zeo_clone', 'version': __version__, 'manual_title': 'zeo_clone'}
    parsers = {name: command_line_of(name, command) for name, command in COMMANDS.items()}
    summaries = {name: command.summary for name, command in COMMANDS.items()}
    for name, parser in {'': whole(), **parsers}.items():
        page = Manpage(parser, {**about, 'description': summaries.get(name, parser.description)})
        page.prog = parser.prog.replace(' ', '-')
        yield f'{page.prog}.1', f'{page}\n'


def main(args: Sequence[str] | None = None, prog: str = f'{PROGRAM} man') -> int:
    """Write the pages; the exit code."""
    given = command_line(prog).parse_args(args)
    try:
        made = list(pages())
        os.makedirs(given.directory, exist_ok=True)
        for name, text in made:
            Path(given.directory, name).write_text(text, encoding='utf-8')
    except ImportError:
        print(f'{prog}: it needs argparse-manpage: pip install "zeo_clone[manual]"', file=sys.stderr)
        return 1
    except OSError as error:
        print(f'{prog}: cannot write {error.filename}: {error.strerror}', file=sys.stderr)
        return 1
    return 0
