"""Switches at any statement: in a process of their own, for the product is compiled anew."""
from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from simulation.lines import NAME, Statements

pytestmark = [pytest.mark.long, pytest.mark.once]

CHECKOUT = Path(__file__).parent.parent.parent
SOURCE = '''
a = 1

def f(x):
    """Text."""
    if x:
        return 1
    else:
        x = 2
    return x
'''


def run(*arguments):
    command = [sys.executable, '-m', 'simulation', '--lines', *arguments]
    return subprocess.run(command, cwd=CHECKOUT, text=True, capture_output=True)


def test_each_statement_of_a_function_is_a_place_to_switch():
    changed = Statements().visit(ast.parse(SOURCE))
    ast.fix_missing_locations(changed)
    assert ast.unparse(changed).count(f'{NAME}()') == 4
    calls = []
    names = {NAME: lambda: calls.append(1)}
    exec(compile(changed, 'f', 'exec'), names)
    assert (names['f'](0), len(calls)) == (2, 3)


def test_nothing_is_wrong_wherever_threads_are_switched():
    """C1 to C9, for what is read without locks."""
    done = run('--seeds', '1..3', '--jobs', '1')
    assert done.returncode == 0, done.stdout
    assert '3 runs, 0 failed' in done.stdout
