"""Makes ZODB's public mixins collectable, and says which of their tests are left out and why.

ZODB has renamed its mixin methods from ``check...`` to ``test...`` over time, and releases mix both.
`collected` gives every ``check`` method a second name that collectors find.  Its tables name tests
without the prefix.  Tests that cannot apply are skipped by table, with the reason in the report; a name
in a table that no mixin has is an error.
"""
from __future__ import annotations

import unittest

CHECK, TEST, RACE = 'check', 'test', 'race'


def methods(cls, prefix):
    """The names of the methods of `cls` that start with `prefix`."""
    return [name for name in dir(cls) if name.startswith(prefix) and callable(getattr(cls, name))]


def method(cls, name):
    """The full name of the method ``test<name>`` or ``check<name>`` of `cls`, else TypeError."""
    for prefix in (TEST, CHECK):
        if hasattr(cls, prefix + name):
            return prefix + name
    raise TypeError(f'{cls.__name__} has no test {name}: correct the table')


def collected(left_out=None, real_clock=(), race_rounds=1, one_round=()):
    """Class decorator: all ``check`` and ``test`` methods are found, each race `race_rounds` times, but those
    in `one_round`.

    `left_out` is ``{name: reason}``.  `real_clock` are tests that ZODB runs under a clock faked in this
    process; they compare its times with the server's, so here the real one counts for both.
    """
    def decorate(cls):
        for name in real_clock:
            full = method(cls, name)
            setattr(cls, full, getattr(getattr(cls, full), '__wrapped__', getattr(cls, full)))
        for name, reason in (left_out or {}).items():
            full = method(cls, name)
            setattr(cls, full, unittest.skip(reason)(getattr(cls, full)))
        once = {method(cls, name).removeprefix(CHECK).removeprefix(TEST) for name in one_round}
        for name in methods(cls, CHECK):
            setattr(cls, f'{TEST}_{name}', getattr(cls, name))
        for name in methods(cls, TEST):
            if RACE in name and not any(name.endswith(part) for part in once):
                for number in range(2, race_rounds + 1):
                    setattr(cls, f'{name}_round_{number}', getattr(cls, name))
        return cls

    return decorate
