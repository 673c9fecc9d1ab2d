"""``python -m simulation``."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent.parent
SMALL = '--set', 'transactions=5', '--set', 'clients=1'


def command(*arguments):
    return subprocess.run([sys.executable, '-m', 'simulation', *SMALL, *arguments], cwd=CHECKOUT, text=True,
                          capture_output=True)


def test_seeds_are_shared_among_processes():
    """The same runs, told in the same order; the end is waited for."""
    bug = '--planted', 'conflict-overlooked'
    one, two = (command('--seeds', '1..4', '--jobs', jobs) for jobs in '12')
    assert (one.returncode, two.returncode) == (0, 0), two.stdout + two.stderr
    assert one.stdout.startswith('4 runs, 0 failed, ')
    assert one.stdout.split(' transactions')[0] == two.stdout.split(' transactions')[0]
    one, two = (command('--seeds', '1..40', '--set', 'clients=4', '--jobs', jobs, *bug) for jobs in '12')
    assert (one.returncode, one.stdout) == (two.returncode, two.stdout) == (0, one.stdout)
    assert one.stdout.startswith('conflict-overlooked: seed ')
