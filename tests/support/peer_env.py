"""The environments in which real ZEO runs: made once per user, outside of the checkout.

Out: the path of a Python interpreter that has ZEO and that has never heard of zeo_clone; real ZEO
installs commands of the same names as ours, so the two never share an environment.

The environments live in $ZEO_CLONE_PEERS, else in ``~/.cache/zeo_clone-tests``, one per version of ZEO,
Python and set of additional packages.  A file lock lets one process make it while others wait.  They
outlive the environment of the tests, so they are made from the interpreter below it.
"""
from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

from tests.support.json_process import child_environment

ZEO_VERSION = '6.2'
OLD_ZEO_VERSION = '5.4.0'
COMPANIONS = {OLD_ZEO_VERSION: ['ZODB<6']}  # it says nothing of an upper bound, but needs one
#: How tests call a real ZEO: the package to import and, if it is not the usual one, the version.
ZEO, OLD_ZEO = 'ZEO', f'ZEO {OLD_ZEO_VERSION}'
COMPLETE = 'complete'  # written last; without it an environment is the left-over of a failure
STEP_LIMIT_S = 600
START_LIMIT_S = 60
SHOWN_CHARACTERS = 2000


class PeerEnvironmentError(Exception):
    """The environment with real ZEO could not be made; the message says why and what to do."""


def cache_directory():
    given = os.environ.get('ZEO_CLONE_PEERS')
    return Path(given) if given else Path.home() / '.cache' / 'zeo_clone-tests'


def import_name(package):
    """What to import for `package`, ``zeo_clone``, `ZEO` or `OLD_ZEO`."""
    return package.partition(' ')[0]


def python_of(package):
    """The interpreter that has `package`, which is `ZEO` or `OLD_ZEO`."""
    return peer_python(version=package.partition(' ')[2] or ZEO_VERSION)


@lru_cache
def peer_python(*additional, version=ZEO_VERSION):
    """The interpreter of an environment with ZEO and the `additional` packages.

    Made if it does not exist or does not work any more.  Raises PeerEnvironmentError.
    """
    return environment_python('-'.join(['zeo', version, *additional]),
                              [f'ZEO=={version}', *COMPANIONS.get(version, ()), *additional])


def environment_python(name, requirements):
    """The interpreter of the environment `name`, made with `requirements` if it does not exist or work.

    The name of the Python is added to that of the environment.  Raises PeerEnvironmentError.
    """
    tag = f'{sys.implementation.name}{sys.version_info.major}.{sys.version_info.minor}'
    directory = cache_directory() / f'{name}-{tag}'
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with open(f'{directory}.lock', 'w') as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed
            if not works(directory):
                make(directory, requirements)
    except OSError as error:
        raise PeerEnvironmentError(f'cannot make the environment {directory}: {error}. '
                                   f'Set ZEO_CLONE_PEERS to a writable directory.') from error
    return str(directory / 'bin' / 'python')


def works(directory):
    """Was the environment `directory` made to its end, and does its interpreter start?

    It does not when the Python that it was made from has gone.
    """
    if not (directory / COMPLETE).exists():
        return False
    try:
        started = subprocess.run([str(directory / 'bin' / 'python'), '-c', ''], env=child_environment(),
                                 timeout=START_LIMIT_S, stdin=subprocess.DEVNULL,
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return started.returncode == 0


def base_python():
    """The interpreter that stays when the environment in which this one runs is deleted."""
    name = f'python{sys.version_info.major}.{sys.version_info.minor}'
    base = Path(sys.base_prefix) / 'bin' / name
    return str(base if base.exists() else Path(sys.executable).resolve())


def make(directory, requirements):
    """Make the virtual environment `directory` with `requirements` from PyPI."""
    shutil.rmtree(directory, ignore_errors=True)
    step([base_python(), '-m', 'venv', str(directory)])
    step([str(directory / 'bin' / 'python'), '-m', 'pip', 'install', '--quiet',
          '--disable-pip-version-check', *requirements])
    (directory / COMPLETE).write_text('\n'.join(requirements) + '\n')


def step(command):
    try:
        done = subprocess.run(command, env=child_environment(), timeout=STEP_LIMIT_S, text=True,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT)
    except subprocess.TimeoutExpired as error:
        raise PeerEnvironmentError(f'{" ".join(command)}: not done after {STEP_LIMIT_S} s') from error
    if done.returncode:
        raise PeerEnvironmentError(
            f'{" ".join(command)} failed. The tests with real ZEO need PyPI once; they keep the '
            f'environment in {cache_directory()}. It said:\n{done.stdout[-SHOWN_CHARACTERS:]}')
