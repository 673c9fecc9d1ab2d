"""How far tests reach into the house: names that begin with an underscore, and modules that are patched.

Both bind tests to how a thing is done.  `tests/support/inside.py` is the door to what has to be seen of a
storage, a cache and a server; clock, disk, network and random numbers are given as a `Runtime`.
"""
from __future__ import annotations

import ast
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

TESTS = Path(__file__).parent

#: So many there are at most; whoever needs fewer takes them down.
MOST_PRIVATE, MOST_PATCHES = 180, 125

#: Public in spite of their names: of named tuples, and of persistent objects.
PUBLIC = {'_asdict', '_fields', '_make', '_replace'}


def is_private(name):
    return name.startswith('_') and not name.startswith(('__', '_p_')) and name not in PUBLIC


def reaches(tree):
    """``(line, name)`` of private names that are not this file's own."""
    own = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    private = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and is_private(node.attr)]
    of_self = [node for node in private if ast.unparse(node.value) in ('self', 'cls')]
    own |= {node.attr for node in of_self if isinstance(node.ctx, ast.Store)}
    found = [(node.lineno, node.attr) for node in private if node not in of_self and node.attr not in own]
    return found + [(line, name) for line, name in patches(tree) if is_private(name)]


def patches(tree):
    """``(line, name)`` of each ``monkeypatch.setattr(somewhere, name, ...)`` and the like, but of constants:
    a limit has a name so that it can be another one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and len(node.args) > 1 \
                and node.func.attr in ('setattr', 'delattr', 'setitem') \
                and 'patch' in ast.unparse(node.func.value):
            name = str(getattr(node.args[1], 'value', ''))
            if not name.isupper():
                yield node.lineno, name


def test_tests_reach_into_the_house_less_and_less():
    counted = {reaches: 0, patches: 0}
    for path in sorted(TESTS.rglob('*.py')):
        tree = ast.parse(path.read_text())
        for find in counted if path.name != 'inside.py' else ():
            for line, name in find(tree):
                counted[find] += 1
                print(f'{path.relative_to(TESTS)}:{line}: {find.__name__} {name}')
    assert counted[reaches] <= MOST_PRIVATE
    assert counted[patches] <= MOST_PATCHES


def test_what_is_counted():
    tree = ast.parse('class A:\n    def __init__(self): self._own = 1\n    def _do(self): pass\n'
                     'def t(a, b, monkeypatch):\n    a._own, a._do(), b._x.y, b._replace(), b._p_oid\n'
                     '    monkeypatch.setattr(b, "_z", 1)\n    monkeypatch.setitem(b, "q", 1)\n'
                     '    monkeypatch.setattr(b, "MOST", 1)\n')
    assert [name for _, name in reaches(tree)] == ['_x', '_z']
    assert [name for _, name in patches(tree)] == ['_z', 'q']
