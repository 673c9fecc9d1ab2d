"""An environment with the package, as its users get it, and with what the recipes combine it with."""
from __future__ import annotations

import pytest

from tests.docs.pages import Reader
from tests.support.distribution import borrow_commands, build_wheel, make_environment
from tests.support.peer_env import environment_python

#: The newest of each that PyPI has for this Python; made once, under ~/.cache.  Real ZEO comes with zodburi.
REQUIREMENTS = ['gevent', 'gunicorn', 'pyramid', 'pyramid_retry', 'pyramid_tm', 'pyramid_zodbconn', 'pyuwsgi',
                'RelStorage', 'Zope', 'zdaemon']


@pytest.fixture(scope='session')
def site(tmp_path_factory):
    """The ``bin`` of that environment."""
    place = make_environment(tmp_path_factory.mktemp('site'), build_wheel(tmp_path_factory.mktemp('wheel')),
                             environment_python('recipes', REQUIREMENTS))
    borrow_commands(place)
    return place


@pytest.fixture
def reader(site, tmp_path):
    """A reader of pages who types everything in there."""
    directory = tmp_path / 'reader'
    directory.mkdir()
    with Reader(directory, site) as reader:
        yield reader
