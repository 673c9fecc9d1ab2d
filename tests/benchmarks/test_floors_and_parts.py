"""What is printed beside the workloads: bare programs, and parts by themselves."""
from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import parts

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[2]
NUMBER = re.compile(r' (\d[\d,]*(?:\.\d+)?) (us|ms|MB/s|txn/s)')


def test_floors_are_measured_and_their_programs_end(tmp_path):
    """In a process of its own, since it forks; `communicate` waits for all who hold its output.  In no time
    everything is measured once, as on a machine that is busy with something else."""
    with subprocess.Popen([sys.executable, '-m', 'benchmarks.floors', '--seconds', '0', '--directory',
                           str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        lines = process.communicate(timeout=60)[0].splitlines()
    assert process.returncode == 0
    units = [NUMBER.search(line)[2] for line in lines]
    assert units == ['us', 'us', 'ms', 'txn/s', 'txn/s', 'MB/s', 'us', 'us']
    assert all(float(NUMBER.search(line)[1].replace(',', '')) > 0 for line in lines)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings('error')
def test_parts_are_measured(tmp_path, capsys, monkeypatch):
    cost = parts.cost
    monkeypatch.setattr(parts, 'cost', lambda step, times=0: cost(step, 20, rounds=2))
    parts.main(['--directory', str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    titles = [line for line in lines if line.endswith(':')]
    assert len(titles) == 5
    assert len(lines) == len(titles) + 5 + 4 + 4 + 2 + 3
    # So few are measured here that what the session leaves of the whole may be negative.
    assert all(NUMBER.search(line.replace(' -', ' ') if 'session' in line else line)
               for line in lines if line not in titles)
    assert list(tmp_path.iterdir()) == []
