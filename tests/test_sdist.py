"""The source distribution: it has what the checkout has, and the suite runs from it."""
from __future__ import annotations

import shutil
import sys
import tarfile
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.tool_process import call

pytestmark = [pytest.mark.long, pytest.mark.once]

CHECKOUT = Path(__file__).parent.parent
BUILD = 'import sys; from setuptools import build_meta; print(build_meta.build_sdist(sys.argv[1]))'
#: What building adds.
GENERATED = {'PKG-INFO', 'setup.cfg'}
#: A part of the suite with something of each kind: a look at all modules, plain calls, pages whose links
#: lead out of docs/, a program of examples/, real servers.
PART = ['tests/test_floors.py', 'tests/zrpc/test_frames.py',
        'tests/examples/test_ledger.py::test_one_changed_line_takes_the_books_to_a_server',
        'tests/docs/test_docs.py::test_links_lead_somewhere',
        'tests/docs/test_docs.py::test_everything_on_the_page_works[getting-started.md]',
        'tests/test_packaging.py::test_first_steps_of_readme_work_as_they_stand']


class Distribution(NamedTuple):
    """An unpacked source distribution, and the names of the files of the checkout it was made from."""

    place: Path
    source: set[str]


def files(directory):
    return {str(path.relative_to(directory)) for path in directory.rglob('*') if path.is_file()}


@pytest.fixture(scope='module')
def sdist(tmp_path_factory):
    """Made from a copy of the checkout, without what .gitignore names."""
    ignored = [line.strip('/') for line in (CHECKOUT / '.gitignore').read_text().splitlines()]
    copy = tmp_path_factory.mktemp('checkout') / 'copy'
    shutil.copytree(CHECKOUT, copy, ignore=shutil.ignore_patterns('.git', *ignored))
    source = files(copy)
    directory = tmp_path_factory.mktemp('sdist')
    name = call(sys.executable, '-W', 'ignore', '-c', BUILD, directory, cwd=copy).splitlines()[-1]
    with tarfile.open(directory / name) as archive:
        archive.extractall(directory, filter='data')
    return Distribution(directory / name.removesuffix('.tar.gz'), source)


def test_sdist_has_what_the_checkout_has(sdist):
    packed = {name for name in files(sdist.place) if not name.startswith('zeo_clone.egg-info/')}
    assert packed - GENERATED == sdist.source
    assert {'docs/server.md', 'tests/conftest.py', 'benchmarks/load.py', '.ci/run'} <= packed


def test_a_part_of_the_suite_runs_from_the_sdist(sdist):
    """T1"""
    where = call(sys.executable, '-c', 'import zeo_clone; print(zeo_clone.__file__)', cwd=sdist.place)
    assert Path(where.strip()).is_relative_to(sdist.place)
    said = call(sys.executable, '-m', 'pytest', '-q', *PART, cwd=sdist.place)
    assert ' passed' in said and 'skipped' not in said, said
