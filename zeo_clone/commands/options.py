"""What command lines have in common: conversions that explain themselves, ``--version``.

In: an argparse parser.  Out: options in it, and functions for it.
"""
from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from zeo_clone import __version__


def argument(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    """`convert` for argparse: the text of its ``ValueError`` becomes the complaint."""
    def checked(text: str) -> Any:
        try:
            return convert(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
    return checked


def positive(text: str) -> float:
    """A number greater than 0, of seconds for instance.  Raises ``ValueError``."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float('inf'):
        raise ValueError(f'{text!r} is not a number greater than 0')
    return number


def add_version(parser: argparse.ArgumentParser) -> None:
    """``--version``: whose command this is; ZEO has some of the same names."""
    parser.add_argument('--version', action='version', version=f'{parser.prog} (zeo_clone) {__version__}',
                        help='say which version of zeo_clone this is')
