"""The recipe with Plone, which takes minutes and much of PyPI; so it is run only if somebody asks for it:

    python -m pytest tests/recipes/plone.py
"""
from __future__ import annotations

import contextlib
import subprocess

from tests.docs.pages import Reader, blocks
from tests.support.distribution import borrow_commands, build_wheel, make_environment
from tests.support.peer_env import environment_python

PAGE = 'plone.md'
#: As its first block says, and what the recipes need without saying so.
REQUIREMENTS = ['Products.CMFPlone', 'plone.app.layout<7', 'zc.buildout', 'plone.recipe.zeoserver',
                'plone.recipe.zope2instance', 'setuptools']
LIMIT_S = 600


def test_the_recipe_with_plone_works(tmp_path):
    """T1"""
    place = make_environment(tmp_path / 'site', build_wheel(tmp_path / 'wheel'),
                             environment_python('plone', REQUIREMENTS))
    borrow_commands(place)
    directory = tmp_path / 'reader'
    directory.mkdir()
    with Reader(directory, place, LIMIT_S) as reader:
        try:
            followed = reader.follow(PAGE)
        finally:
            with contextlib.suppress(FileNotFoundError):
                subprocess.run([directory / 'bin' / 'zeoserver', 'stop'], cwd=directory, timeout=LIMIT_S)
    assert followed == sum(block.words != ('install',) for block in blocks(PAGE))
    assert '"import ZEO" finds zeo_clone' in reader.output
    assert '<title>A shared site</title>' in reader.output
    for requirement in REQUIREMENTS[:-1]:
        assert requirement in blocks(PAGE)[0].text
