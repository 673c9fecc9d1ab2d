"""Fixtures for the tests of examples/: a server, running programs, their modules."""
from __future__ import annotations

from contextlib import ExitStack

import pytest

from tests.examples.programs import EXAMPLES, Program
from tests.support.server_process import ServerProcess


@pytest.fixture(scope='module')
def shared_server(tmp_path_factory):
    """A server over a FileStorage for all tests of a module, which do not stop it."""
    path = tmp_path_factory.mktemp('shared') / 'Data.fs'
    with ServerProcess([{'kind': 'file', 'path': str(path)}]) as process:
        yield process


@pytest.fixture
def program():
    """Start programs of examples/ that are ended after the test: ``program('chatter.py', ...)``."""
    with ExitStack() as running:

        def start(script, *arguments, **options):
            return running.enter_context(Program(script, *arguments, **options))

        yield start


@pytest.fixture
def examples_path(monkeypatch):
    """examples/ is where modules are imported from, so that objects of the programs can be loaded here."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return EXAMPLES
