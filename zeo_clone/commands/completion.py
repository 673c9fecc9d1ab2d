"""zeo-clone completion: a script that lets a shell complete the commands, their options and files.

In: the name of a shell.  Out: the script, made by shtab from the parsers of all commands, on stdout.
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from zeo_clone.commands.options import add_version
from zeo_clone.commands.tree import mark_files, whole

PROGRAM = 'zeo-clone completion'
SHELLS = ('bash', 'zsh', 'fish')


def command_line(prog: str = PROGRAM) -> argparse.ArgumentParser:
    """The parser of its options."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description='Print a script for a shell, which then completes what is typed after zeo-clone.',
        epilog='For bash: zeo-clone completion bash > ~/.local/share/bash-completion/completions/zeo-clone.  '
               'For zsh: into a file _zeo-clone in a directory of $fpath.  '
               'For fish: into ~/.config/fish/completions/zeo-clone.fish.')
    parser.add_argument('shell', choices=SHELLS)
    add_version(parser)
    return parser


def main(args: Sequence[str] | None = None, prog: str = PROGRAM) -> int:
    """Print the script; the exit code."""
    given = command_line(prog).parse_args(args)
    try:
        import shtab
    except ImportError:
        print(f'{prog}: it needs shtab: pip install "zeo_clone[manual]"', file=sys.stderr)
        return 1
    parser = whole()
    mark_files(parser, shtab.FILE, shtab.DIRECTORY)
    print(shtab.complete(parser, given.shell))
    return 0
