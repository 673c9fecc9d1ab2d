"""Planted bugs: each a small patch from outside, which the simulation has to find.

A bug has a name, a line that says what is wrong, and a function that gives what is to be replaced: ``(where,
name, by what)``.  `planted` puts it in while a block runs.
"""
from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

#: Where, which attribute, and what takes its place.
Patch = tuple[Any, str, Any]


class Bug(NamedTuple):
    """See above.  `needs`: fields of the plan without which it cannot show."""

    name: str
    about: str
    patches: Callable[[], list[Patch]]
    needs: dict[str, Any]


BUGS: dict[str, Bug] = {}
#: What is found in place of a bug whose patch does not fit the product any more.
MISFITS = 'AttributeError', 'NameError', 'TypeError'


def plant(about: str, **needs: Any) -> Callable[[Callable[[], list[Patch]]], Callable[[], list[Patch]]]:
    """Enter a function into `BUGS`, under its name."""
    def enter(function: Callable[[], list[Patch]]) -> Callable[[], list[Patch]]:
        name = function.__name__.replace('_', '-')
        BUGS[name] = Bug(name, about, function, needs)
        return function
    return enter


def fits(fault: str) -> bool:
    """Is it the bug that was found, and not that its patch is of another version of the product?"""
    return not any(name in fault for name in MISFITS)


@contextlib.contextmanager
def planted(name: str | None) -> Iterator[Bug | None]:
    """While the block runs, the product has the bug."""
    if name is None:
        yield None
        return
    bug = library()[name]
    with contextlib.ExitStack() as stack:
        for where, attribute, replacement in bug.patches():
            stack.enter_context(mock.patch.object(where, attribute, replacement))
        yield bug


def library() -> dict[str, Bug]:
    """All of them."""
    from simulation.planted import at_rims, in_blobs, in_cache, in_client, in_packs, in_server, in_wire  # noqa: F401 - they enter theirs
    return BUGS
