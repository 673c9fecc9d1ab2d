"""`peer_env`: environments outlive the one from which the tests run, and are made anew when they break."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import peer_env


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Environments are made in tmp_path, without PyPI; a list of the directories that were made."""
    monkeypatch.setenv('ZEO_CLONE_PEERS', str(tmp_path))
    directories = []

    def make(directory, requirements):
        directories.append(directory)
        (directory / 'bin').mkdir(parents=True, exist_ok=True)
        python = directory / 'bin' / 'python'
        python.unlink(missing_ok=True)
        python.symlink_to(peer_env.base_python())
        (directory / peer_env.COMPLETE).write_text('')

    monkeypatch.setattr(peer_env, 'make', make)
    return directories


def find_anew():
    return Path(peer_env.peer_python.__wrapped__(version='test'))


def test_an_environment_is_made_once(made):
    assert find_anew() == find_anew()
    assert len(made) == 1


@pytest.mark.parametrize('broken', ['is missing', 'leads nowhere', 'does not start', 'is cut off'])
def test_an_environment_whose_interpreter_is_broken_is_made_anew(made, broken):
    python = find_anew()
    python.unlink()
    if broken == 'leads nowhere':
        python.symlink_to(python.parent / 'gone' / 'python')
    elif broken == 'does not start':
        python.symlink_to('/bin/false')
    elif broken == 'is cut off':
        python.write_bytes(b'\x7fELF')
        python.chmod(0o755)
    assert subprocess.run([find_anew(), '-c', '']).returncode == 0
    assert len(made) == 2


def test_an_environment_that_was_not_finished_is_made_anew(made):
    python = find_anew()
    (python.parent.parent / peer_env.COMPLETE).unlink()
    find_anew()
    assert len(made) == 2


def test_the_interpreter_below_is_found_from_an_environment_in_an_environment(tmp_path):
    """As in a check that runs in a temporary environment: on Python 3.10 its links would be kept."""
    outer, inner = tmp_path / 'outer', tmp_path / 'inner'
    for python, directory in [(sys.executable, outer), (outer / 'bin' / 'python', inner)]:
        subprocess.run([python, '-m', 'venv', '--without-pip', directory], check=True)
    ask = f'import sys; sys.path[:0] = {sys.path!r}; from tests.support.peer_env import base_python; ' \
          'print(base_python())'
    found = Path(subprocess.run([inner / 'bin' / 'python', '-c', ask], check=True, text=True,
                                stdout=subprocess.PIPE).stdout.strip())
    assert tmp_path not in found.parents
    tell = 'import sys; print(sys.prefix == sys.base_prefix, *sys.version_info[:2])'
    answer = subprocess.run([found, '-c', tell], check=True, text=True,
                            stdout=subprocess.PIPE).stdout.split()
    assert answer == ['True', *map(str, sys.version_info[:2])]
