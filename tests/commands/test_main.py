"""zeo-clone: every command under the one name that nobody else installs.  T1, T2."""
from __future__ import annotations

import re
import sys

import pytest

from tests.support.runzeo_process import Runzeo, await_server
from tests.support.server_process import ANY_PORT
from tests.support.tool_process import run_tool
from zeo_clone import __version__
from zeo_clone.addresses import format_address
from zeo_clone.commands.main import COMMANDS

MODULE = (sys.executable, '-W', 'error', '-m', 'zeo_clone')
#: Commands of old names, by module.
CLASSIC = {'runzeo': 'runzeo', 'zeo-status': 'commands.status', 'zeopack': 'scripts.zeopack',
           'zeo-nagios': 'nagios', 'zeoctl': 'zeoctl'}


def zeo_clone(*arguments, cwd=None):
    return run_tool(None, *arguments, cwd=cwd, command=MODULE)


def test_a_server_is_checked_served_asked_packed_and_stopped(tmp_path):
    """T1"""
    options = ['-a', format_address(ANY_PORT), '-f', str(tmp_path / 'Data.fs')]
    code, out, err = zeo_clone('check', *options)
    assert (code, err) == (0, '') and out.startswith('would serve storage')
    assert not (tmp_path / 'Data.fs').exists()
    with Runzeo('serve', *options, command=MODULE) as server:
        address = format_address(server.ready().address)
        assert zeo_clone('status', address)[0] == 0
        assert zeo_clone('pack', address)[0] == 0
        assert zeo_clone('nagios', '--timeout', 200, address)[0] in (0, 1)  # 1: nothing in it yet
        assert server.stop() == 0


def test_ctl_starts_and_stops_a_server(tmp_path):
    """T1: its watching process is started by the same command."""
    (tmp_path / 'zeo.conf').write_text(f'<zeo>\naddress {tmp_path}/zeo.sock\n</zeo>\n<mappingstorage/>\n'
                                       f'<runner>\nprogram {sys.executable} -m zeo_clone serve -C zeo.conf\n'
                                       f'directory {tmp_path}\nsocket-name {tmp_path}/zdsock\n'
                                       f'transcript {tmp_path}/log\n'
                                       f'start-test-program test -S {tmp_path}/zeo.sock\n</runner>\n')
    control = ['ctl', '-C', str(tmp_path / 'zeo.conf')]
    code, out, err = zeo_clone(*control, 'start')
    try:
        assert (code, err) == (0, '') and 'started, pid=' in out
        await_server(str(tmp_path / 'zeo.sock'))
        assert zeo_clone('status', str(tmp_path / 'zeo.sock'))[0] == 0
    finally:
        assert zeo_clone(*control, 'stop')[0] == 0
    assert zeo_clone(*control, 'status')[0] == 3


@pytest.mark.parametrize('name', list(COMMANDS))
def test_help_and_mistakes_name_the_command_as_it_was_typed(name):
    code, out, _ = zeo_clone(name, '--help')
    assert code == 0
    assert re.match(rf'(?i)usage: zeo-clone {name} ', out)
    code, out, err = zeo_clone(name, '--nonsense')
    assert (code, out) == (2, '')
    assert f'zeo-clone {name}' in err


def test_help_names_every_command():
    for arguments in (['--help'], ['-h'], ['help']):
        code, out, _ = zeo_clone(*arguments)
        assert code == 0
        listed = out.partition('commands (')[2].partition('first steps')[0]
        assert re.findall(r'^  (\S+)', listed, re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize(('arguments', 'message'), [
    ([], 'a command is missing; there are serve, check, status'),
    (['sreve'], "there is no command 'sreve'; there are serve, check"),
])
def test_a_wrong_command_exits_with_2(arguments, message):
    """T2"""
    code, out, err = zeo_clone(*arguments)
    assert (code, out) == (2, '')
    assert err.startswith(f'zeo-clone: {message}')


@pytest.mark.parametrize('name', ['zeo-clone', *CLASSIC])
def test_every_command_says_whose_it_is(name):
    """ZEO installs commands of some of these names."""
    code, out, _ = run_tool(CLASSIC.get(name), '--version', command=None if name in CLASSIC else MODULE)
    assert (code, out) == (0, f'{name} (zeo_clone) {__version__}\n')
