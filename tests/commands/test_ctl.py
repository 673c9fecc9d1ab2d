"""zeoctl: T1, and the watching process that it starts."""
from __future__ import annotations

import os
import re
import sys

import pytest
from zdaemon import zdctl

from tests.support.runzeo_process import await_server, ruok
from tests.support.tool_process import run_tool
from zeo_clone import __version__
from zeo_clone.commands import ctl
from zeo_clone.configuration import zconfig


@pytest.fixture
def zeoctl(tmp_path):
    """Run zeoctl in `tmp_path` on its zeo.conf: (exit code, stdout, stderr).  Stops what it started."""
    (tmp_path / 'zeo.conf').write_text(f"""
        <zeo>
          address {tmp_path}/zeo.sock
          pid-filename {tmp_path}/zeo.pid
        </zeo>
        <mappingstorage 1>
        </mappingstorage>
        <runner>
          program {sys.executable} -m zeo_clone.runzeo -C {tmp_path}/zeo.conf
          socket-name {tmp_path}/zdsock
          start-test-program test -S {tmp_path}/zeo.sock
          start-timeout 200
        </runner>
        """)

    def run(*arguments):
        return run_tool('zeoctl', '-C', 'zeo.conf', *arguments, cwd=tmp_path)

    yield run
    run('stop')


def test_server_is_started_watched_and_stopped(zeoctl, tmp_path):
    """T1"""
    assert zeoctl('status')[:2] == (3, 'daemon manager not running\n')
    code, out, err = zeoctl('start')
    assert code == 0, err
    pid = int(re.search(r'started, pid=(\d+)', out)[1])
    await_server(str(tmp_path / 'zeo.sock'))
    assert list(ruok(str(tmp_path / 'zeo.sock'))) == ['1']
    assert int((tmp_path / 'zeo.pid').read_text()) == pid
    assert zeoctl('status')[:2] == (0, f'program running; pid={pid}\n')
    assert f'already running; pid={pid}' in zeoctl('start')[1]
    code, out, err = zeoctl('stop')
    assert code == 0, err
    assert 'stopped' in out
    assert not (tmp_path / 'zeo.sock').exists()
    assert zeoctl('status')[0] == 3


def test_a_server_whose_configuration_has_become_wrong_can_be_stopped(zeoctl, tmp_path):
    """T2: only the <runner> section counts for that; a warning says what is wrong with the rest."""
    assert zeoctl('start')[0] == 0
    await_server(str(tmp_path / 'zeo.sock'))
    path = tmp_path / 'zeo.conf'
    path.write_text('%define UNUSED 1\n' + path.read_text().replace('pid-filename', 'pid-file'))
    code, out, err = zeoctl('status')
    assert (code, out.startswith('program running')) == (0, True)
    assert "Warning: 'pid-file' is not a known key name" in err
    assert zeoctl('restart')[0] == 2
    assert zeoctl('stop')[0] == 0
    assert zeoctl('status')[0] == 3


@pytest.mark.parametrize('content', [None, '<runner>\nprogam x\n</runner>', '<zeo>\n'])
def test_without_a_runner_section_that_can_be_read_nothing_is_stopped(tmp_path, content):
    """T2"""
    if content is not None:
        (tmp_path / 'zeo.conf').write_text(content)
    code, out, err = run_tool('zeoctl', '-C', 'zeo.conf', 'stop', cwd=tmp_path)
    assert (code, out) == (2, '')
    assert err.startswith('Error: ') and 'zeo.conf' in err


def test_without_a_runner_section_what_runs_here_can_be_stopped(tmp_path, capsys, monkeypatch):
    """T2: as the watching process has the socket that it has without one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'zeo.conf').write_text('<zeo>\naddress 1\n</zeo>\n<mistake>\n</mistake>\n')
    with pytest.raises(SystemExit):
        ctl.Options('zeoctl').realize(['-C', 'zeo.conf', 'stop'])
    assert "Error: unknown type name: 'mistake'" in capsys.readouterr().err
    (tmp_path / 'zdsock').touch()
    options = ctl.Options('zeoctl')
    options.realize(['-C', 'zeo.conf', 'stop'])
    assert os.path.samefile(options.sockname, tmp_path / 'zdsock')
    assert "Warning: unknown type name: 'mistake'" in capsys.readouterr().err


def test_unknown_action_exits_with_2_and_names_those_there_are(zeoctl):
    """T2"""
    code, out, err = zeoctl('sotp')
    assert (code, out) == (2, '')
    assert "there is no action 'sotp'; there are start, stop, restart, status" in err


def test_version_is_that_of_zeo_clone(tmp_path):
    assert run_tool('zeoctl', '--version', cwd=tmp_path)[:2] == (0, f'zeoctl (zeo_clone) {__version__}\n')


def test_mistake_in_the_configuration_exits_with_2_and_names_the_line(tmp_path):
    (tmp_path / 'zeo.conf').write_text('<zeo>\naddress 1\nadress 2\n</zeo>')
    code, out, err = run_tool('zeoctl', '-C', 'zeo.conf', 'status', cwd=tmp_path)
    assert (code, out) == (2, '')
    assert "'adress' is not a known key name; allowed in <zeo>: " in err
    assert 'zeo.conf, line 3)' in err


def test_without_a_runner_section_the_program_is_runzeo_with_the_same_configuration(tmp_path):
    (tmp_path / 'zeo.conf').write_text('<zeo>\naddress 1\n</zeo>')
    code, out, err = run_tool('zeoctl', '-C', 'zeo.conf', '-s', 'zdsock', 'show', 'options', cwd=tmp_path)
    assert code == 0, err
    program = [sys.executable, '-m', 'zeo_clone', 'serve', '-C', f'{tmp_path}/zeo.conf']
    assert re.search(r'program: +(.*)', out)[1] == repr(program)


@pytest.mark.parametrize(('name', 'script', 'ours'), [
    ('runzeo', '#!/usr/bin/python\nfrom zeo_clone.commands.serve import main\n', True),
    ('runzeo', '#!/usr/bin/python\nfrom ZEO.runzeo import main\n', False),
    ('absent', None, False)])
def test_a_program_that_is_none_of_ours_is_named(tmp_path, capsys, name, script, ours):
    """T2: a zeo.conf that comes from ZEO may name its runzeo."""
    path = tmp_path / name
    if script is not None:
        path.write_text(script)
        path.chmod(0o755)
    (tmp_path / 'zeo.conf').write_text(
        f'<zeo>\naddress 1\n</zeo>\n<runner>\nprogram {path}\ntranscript log\n</runner>')
    ctl.Options('zeoctl').realize(['-C', str(tmp_path / 'zeo.conf'), 'start'])
    assert capsys.readouterr().err == (
        '' if ours else f'zeoctl: what is started is none of our programs: {path}\n')


@pytest.mark.parametrize(('arguments', 'eventlog', 'lost'), [
    (['start'], '', True), (['-t', 'log', 'start'], '', False), (['stop'], '', False), (['fg'], '', False),
    (['start'], '<eventlog>\n</eventlog>', False)])
def test_a_log_that_nobody_will_see_is_told(tmp_path, capsys, arguments, eventlog, lost):
    """T2"""
    (tmp_path / 'zeo.conf').write_text(f'<zeo>\naddress 1\n</zeo>\n{eventlog}')
    ctl.Options('zeoctl').realize(['-C', str(tmp_path / 'zeo.conf'), *arguments])
    line = 'zeoctl: the log is lost: have an <eventlog> with a file, or a transcript (-t FILE)\n'
    assert capsys.readouterr().err == (line if lost else '')


def test_a_transcript_that_cannot_be_written_is_told_before_the_start(tmp_path, capsys):
    """T2: the watching process would end without a word."""
    (tmp_path / 'zeo.conf').write_text('<zeo>\naddress 1\n</zeo>\n')
    transcript = f'{tmp_path}/no/zeo.out'
    with pytest.raises(SystemExit):
        ctl.Options('zeoctl').realize(['-C', f'{tmp_path}/zeo.conf', '-t', transcript, 'start'])
    assert capsys.readouterr().err.startswith(
        f'Error: cannot write the transcript {transcript}: there is no directory {tmp_path}/no; name')


def test_a_log_that_the_watching_process_cannot_write_is_a_line(tmp_path):
    """T2"""
    (tmp_path / 'zeo.conf').write_text(
        '<zeo>\naddress 1\n</zeo>\n'
        f'<eventlog>\n<logfile>\npath {tmp_path}\n</logfile>\n</eventlog>\n')
    code, out, err = run_tool('zeoctl', '-S', zconfig.SCHEMA, '-C', 'zeo.conf', sys.executable, cwd=tmp_path,
                              DAEMON_MANAGER_MODE='1')
    assert (code, out) == (1, '')
    assert err.startswith('zeoctl: cannot watch a server: [Errno 21] Is a directory: ')
    assert err.count('\n') == 1


def test_without_a_configuration_it_says_what_to_give(tmp_path):
    code, out, err = run_tool('zeoctl', 'status', cwd=tmp_path)
    assert (code, out) == (2, '')
    assert 'name a configuration with -C, or a program with -p' in err


def test_help_names_the_actions(tmp_path):
    code, out, _ = run_tool('zeoctl', '--help', cwd=tmp_path)
    assert code == 0
    assert out.startswith('usage: zeoctl [-h] [-C URL]')
    assert 'start, stop, restart, status, fg' in ' '.join(out.split())


def test_actions_and_options_are_those_of_zdaemon():
    assert sorted(ctl.ACTIONS) == sorted(name[3:] for name in dir(zdctl.ZDCmd) if name.startswith('do_'))
    options = zdctl.ZDCtlOptions()
    for action in ctl.command_line()._actions:
        for option in action.option_strings:
            assert option in {'-h', '--help', '--version'} or option.lstrip('-') in {
                *(letter.rstrip(':') for letter in re.findall('.:?', ''.join(options.short_options))),
                *(name.rstrip('=') for name in options.long_options)}, option
