"""What is printed beside the workloads: bare programs, and parts by themselves."""
from __future__ import annotations

import multiprocessing
import re

import pytest

from benchmarks import floors, parts

NUMBER = re.compile(r' (\d[\d,]*(?:\.\d+)?) (us|ms|MB/s)')


def test_floors_are_measured_and_their_programs_end(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(floors, 'BLOB', 1 << 20)
    floors.main(['--seconds', '0.02', '--directory', str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert [NUMBER.search(line)[2] for line in lines] == ['us', 'us', 'ms', 'MB/s', 'us', 'us']
    assert all(float(NUMBER.search(line)[1].replace(',', '')) > 0 for line in lines)
    assert multiprocessing.active_children() == []
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
    assert all(NUMBER.search(line) for line in lines if line not in titles)
    assert list(tmp_path.iterdir()) == []
