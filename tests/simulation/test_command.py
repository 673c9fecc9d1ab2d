"""``python -m simulation``."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from simulation.__main__ import main

CHECKOUT = Path(__file__).parent.parent.parent
SMALL = '--set', 'transactions=5', '--set', 'clients=1'


def command(*arguments):
    return subprocess.run([sys.executable, '-m', 'simulation', *SMALL, *arguments], cwd=CHECKOUT, text=True,
                          capture_output=True)


@pytest.mark.once
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


@pytest.mark.parametrize(('mistake', 'message'), [
    ('--seeds 5..1', "there are no seeds in '5..1': the smaller one comes first"),
    ('--seeds all', "'all' are no seeds, as 1..100, 7 or 300.."),
    ('--set clients=many', "'many' is no value of Python"),
    ('--set people=3', "a plan has no field 'people'"),
    ('--planted ivy', "invalid choice: 'ivy'")])
def test_a_mistake_is_told_in_one_line(mistake, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['simulation', *mistake.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
