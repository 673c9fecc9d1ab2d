"""`install_as_ZEO`: unmodified code that imports ZEO runs on us.  In processes of their own."""
from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from zeo_clone import alias


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, '-W', 'error', '-c', textwrap.dedent(script)],
                          capture_output=True, text=True, timeout=60)


def succeed(script: str) -> None:
    done = run(script)
    assert (done.returncode, done.stderr) == (0, '')


def test_imports_give_our_modules():
    succeed('''
        import sys, zeo_clone
        zeo_clone.install_as_ZEO()
        zeo_clone.install_as_ZEO()
        import ZEO, ZEO.ClientStorage, ZEO.StorageServer, ZEO.Exceptions, ZEO.interfaces, ZEO.cache
        from ZEO.ClientStorage import ClientStorage
        from ZEO.Exceptions import ClientDisconnected
        import zeo_clone.Exceptions, zeo_clone.ClientStorage
        assert ZEO is zeo_clone
        assert ClientStorage is zeo_clone.ClientStorage.ClientStorage
        assert ClientDisconnected is zeo_clone.Exceptions.ClientDisconnected
        assert ZEO.Exceptions.__spec__.name == 'zeo_clone.Exceptions'
        assert zeo_clone.__spec__.name == 'zeo_clone'
        try:
            import ZEO.nonsense
        except ImportError as error:
            assert 'ZEO.nonsense' in str(error)
        else:
            raise AssertionError
    ''')


def test_zodbs_zeoclient_section_runs_on_us():
    succeed('''
        import zeo_clone, ZODB.config
        zeo_clone.install_as_ZEO()
        import ZEO
        address, stop = ZEO.server()
        db = ZODB.config.databaseFromString("""
            <zodb>
              <zeoclient>
                server %s:%s
              </zeoclient>
            </zodb>
        """ % address)
        from zeo_clone.client.storage import ClientStorage
        assert type(db.storage) is ClientStorage, db.storage
        with db.transaction() as connection:
            connection.root.x = 1
        db.close()
        connection = ZEO.connection(address)
        assert connection.root.x == 1
        connection.close()
        stop()
    ''')


def test_percent_import_zeo_works():
    succeed('''
        import zeo_clone, ZODB.config
        zeo_clone.install_as_ZEO()
        address, stop = zeo_clone.server()
        db = ZODB.config.databaseFromString("""
            %%import ZEO
            <zodb>
              <clientstorage>
                server %s:%s
              </clientstorage>
            </zodb>
        """ % address)
        from zeo_clone.client.storage import ClientStorage
        assert type(db.storage) is ClientStorage
        db.close()
        stop()
    ''')


def test_modules_run_under_the_other_name():
    """As ``python -m ZEO.runzeo`` does it: plone.recipe.zeoserver starts servers so."""
    succeed('''
        import runpy, sys, zeo_clone
        zeo_clone.install_as_ZEO()
        sys.argv = ['runzeo', '--version']
        try:
            runpy.run_module('ZEO.runzeo', run_name='__main__', alter_sys=True)
        except SystemExit as ended:
            assert ended.code == 0
        import inspect, ZEO.runzeo
        assert 'import ZEOOptions' in inspect.getsource(ZEO.runzeo)
        assert sys.meta_path[0].is_package('ZEO.scripts')
        assert not sys.meta_path[0].is_package('ZEO.cache.ring')
        assert 'AliasFinder' in sys.meta_path[0].get_source('ZEO.alias')
    ''')


def test_an_environment_that_cannot_be_written_is_named(monkeypatch, capsys):
    monkeypatch.setattr(alias, 'FILE_NAME', 'no-such-directory/x.pth')
    assert alias.main(['install']) == 1
    error = capsys.readouterr().err
    assert error.startswith('cannot change ') and 'in a virtual environment' in error


def test_the_real_zeo_must_not_be_in_use():
    done = run('''
        import sys, types
        sys.modules['ZEO'] = types.ModuleType('ZEO')
        import zeo_clone
        zeo_clone.install_as_ZEO()
    ''')
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith('ImportError: the real ZEO has been imported already')


@pytest.mark.parametrize('call', ['client', 'DB', 'connection', 'server'])
def test_the_functions_are_no_modules(call):
    """The packages `client` and `server` do not take the places of the functions."""
    succeed(f'''
        import zeo_clone
        from zeo_clone import ClientStorage, StorageServer
        import zeo_clone.client.storage, zeo_clone.server.server
        import types
        assert type(zeo_clone.{call}) is types.FunctionType
    ''')
