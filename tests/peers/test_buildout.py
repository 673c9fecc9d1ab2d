"""How Plone starts ZEO, plone.recipe.zeoserver in a buildout, with us in ZEO's place.

In an environment of its own: what PyPI has of buildout, and real ZEO, which the recipe requires, come from
one that is made once; our package and what `zeo_clone.alias` writes are there for one test.
"""
from __future__ import annotations

import contextlib
import socket
import subprocess
import sys

import pytest

from tests.support.json_process import child_environment
from tests.support.peer_env import ZEO_VERSION, environment_python
from tests.support.server_process import package_path
from zeo_clone.ClientStorage import ClientStorage

pytestmark = pytest.mark.once

RECIPE = ['zc.buildout', 'plone.recipe.zeoserver', 'setuptools', f'ZEO=={ZEO_VERSION}']
BUILDOUT = 'import sys; from zc.buildout.buildout import main; main(sys.argv[1:])'
CONFIGURATION = '''
[buildout]
parts = zeoserver
offline = true
newest = false

[zeoserver]
recipe = plone.recipe.zeoserver
zeo-address = {address[0]}:{address[1]}
file-storage = {directory}/var/Data.fs
blob-storage = {directory}/var/blobs
'''
SITE_PACKAGES = 'import sysconfig; print(sysconfig.get_path("purelib"))'
LIMIT_S = 120


def run(*command, cwd, code=0):
    """Run a command; what it said.  It must end with `code`."""
    done = subprocess.run(command, cwd=cwd, env=child_environment(), text=True, timeout=LIMIT_S,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == code, f'{command}:\n{done.stdout}'
    return done.stdout.strip()


@pytest.fixture
def python(tmp_path):
    """The Python of an environment that has buildout, its recipe, real ZEO and us."""
    complete = environment_python('zeoserver', RECIPE)
    run(complete, '-m', 'venv', '--without-pip', tmp_path / 'env', cwd=tmp_path)
    python = tmp_path / 'env' / 'bin' / 'python'
    packages = run(python, '-c', SITE_PACKAGES, cwd=tmp_path)
    others = run(complete, '-c', SITE_PACKAGES, cwd=tmp_path)
    own = next(place for place in sys.path if place.endswith('site-packages'))
    with open(f'{packages}/also.pth', 'w') as file:
        file.write(f'{package_path()}\n{others}\n{own}\n')
    return python


@pytest.fixture
def address():
    with socket.create_server(('127.0.0.1', 0)) as sock:
        return sock.getsockname()


def test_the_recipe_of_plone_starts_us_once_the_environment_is_switched(python, address, tmp_path):
    """start, status, pack and stop, by the scripts that the recipe makes."""
    said = run(python, '-m', 'zeo_clone.alias', 'install', cwd=tmp_path)
    assert f'the real one ({ZEO_VERSION} in ' in said and 'is hidden by that' in said
    (tmp_path / 'buildout.cfg').write_text(CONFIGURATION.format(address=address, directory=tmp_path))
    run(python, '-c', BUILDOUT, cwd=tmp_path)
    zeoserver = tmp_path / 'bin' / 'zeoserver'
    run(zeoserver, 'start', cwd=tmp_path)
    try:
        assert 'program running; pid=' in run(zeoserver, 'status', cwd=tmp_path)
        with contextlib.closing(ClientStorage(address)) as storage:
            assert 'uptime' in storage.server_status()  # a key that only our server has
        run(tmp_path / 'bin' / 'zeopack', cwd=tmp_path)
    finally:
        run(zeoserver, 'stop', cwd=tmp_path)
    assert 'daemon manager not running' in run(zeoserver, 'status', cwd=tmp_path, code=3)
    log, = (tmp_path / 'var' / 'log').glob('*.log')
    assert "storage '1' is packed" in log.read_text()


def test_an_environment_is_switched_and_switched_back(python, tmp_path):
    """With the real one there too, each step says what `import ZEO` finds."""
    def found():
        return run(python, '-c', 'import ZEO; print(ZEO.__name__)', cwd=tmp_path)
    assert f'finds the real ZEO {ZEO_VERSION} in ' in run(python, '-m', 'zeo_clone.alias', 'status',
                                                         cwd=tmp_path, code=1)
    assert found() == 'ZEO'
    for _ in range(2):
        run(python, '-m', 'zeo_clone.alias', 'install', cwd=tmp_path)
    assert found() == 'zeo_clone'
    assert 'finds zeo_clone, by ' in run(python, '-m', 'zeo_clone.alias', 'status', cwd=tmp_path)
    assert run(python, '-m', 'ZEO.runzeo', '--version', cwd=tmp_path).startswith('runzeo ')
    assert 'finds the real ZEO' in run(python, '-m', 'zeo_clone.alias', 'remove', cwd=tmp_path)
    assert found() == 'ZEO'
    assert 'Nothing to do' in run(python, '-m', 'zeo_clone.alias', 'remove', cwd=tmp_path)


def test_a_python_that_imports_no_zeo_loads_nothing_of_ours(python, tmp_path):
    run(python, '-m', 'zeo_clone.alias', 'install', cwd=tmp_path)
    loaded = run(python, '-X', 'dev', '-W', 'error', '-c', 'import sys; print(*sys.modules)', cwd=tmp_path)
    assert 'zeo_clone' not in loaded and 'ZODB' not in loaded
