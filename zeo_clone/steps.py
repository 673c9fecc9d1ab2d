"""Cleaning up as a list of steps, each on its own (C21): what one raises keeps none of the others.

In: whose end it is, and what is to be done, the thing that others wait for first.  Out: nothing; a log record
for each step that raised.  Any thread.  Floor 0: knows nobody.
"""
from __future__ import annotations

import logging
from collections.abc import Callable

log = logging.getLogger(__name__)


def take_steps(what: str, *steps: Callable[[], object]) -> bool:
    """Call each of `steps`, in order, whatever the others raise.  `what` is for the log: which end of whom.

    False if one of them has raised an ordinary exception.
    """
    clean = True
    for step in steps:
        try:
            step()
        except Exception:  # noqa: PERF203 - each step on its own is what this is for
            clean = False
            log.exception('%s: a step failed, the others are taken: %r', what, step)
    return clean
