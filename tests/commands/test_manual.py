"""Manual pages and completion say what the parsers say, in terms that man and the shells understand."""
from __future__ import annotations

import argparse
import shutil
import sys

import pytest

from tests.support.tool_process import call, run_tool
from zeo_clone.commands.main import COMMANDS
from zeo_clone.commands.tree import command_line

MODULE = (sys.executable, '-W', 'error', '-m', 'zeo_clone')
#: All warnings, plain text.
GROFF = ('groff', '-man', '-ww', '-T', 'ascii', '-P-cbou')
OPTIONS = {name: [option for action in command_line(name, command)._actions
                  if action.help != argparse.SUPPRESS for option in action.option_strings]
           for name, command in COMMANDS.items()}
#: What bash does when the last of the words is to be completed.
IN_BASH = r"""
source "$1"; shift
function=$(complete -p zeo-clone); function=${function#*-F }; function=${function%% *}
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
"$function" && printf '%s\n' "${COMPREPLY[@]}"
"""


def skip_without(program):
    if shutil.which(program) is None:
        pytest.skip(f'there is no {program}')


@pytest.fixture(scope='module')
def script(tmp_path_factory):
    """The completion script of a shell, as a file: ``script('bash')``."""
    directory = tmp_path_factory.mktemp('completion')

    def make(shell):
        code, out, err = run_tool(None, 'completion', shell, command=MODULE)
        assert (code, err) == (0, '')
        (directory / shell).write_text(out)
        return directory / shell

    return make


@pytest.fixture(scope='module')
def manual(tmp_path_factory):
    """The directory with the pages."""
    directory = tmp_path_factory.mktemp('manual') / 'man1'
    assert run_tool(None, 'man', directory, command=MODULE) == (0, '', '')
    return directory


def in_bash(script, *words):
    return call('bash', '-c', IN_BASH, 'bash', script, 'zeo-clone', *words).split()


def in_fish(script, *words):
    said = call('fish', '--no-config', '-c', 'source $argv[1]; complete -C "$argv[2]"', script,
                ' '.join(['zeo-clone', *words]))
    return [line.partition('\t')[0] for line in said.splitlines()]


@pytest.mark.parametrize(('shell', 'complete'), [('bash', in_bash), ('fish', in_fish)])
def test_shell_completes_commands_options_choices_and_files(shell, complete, script, tmp_path):
    """T1"""
    skip_without(shell)
    file = script(shell)
    assert set(complete(file, '')) >= {*COMMANDS, 'help'}
    assert complete(file, 'st') == ['status']
    for name, options in OPTIONS.items():
        assert set(complete(file, name, '--')) == {option for option in options if option[:2] == '--'}, name
    assert complete(file, 'completion', 'z') == ['zsh']
    (tmp_path / 'zeo.conf').touch()
    assert complete(file, 'serve', '-C', f'{tmp_path}/ze') == [f'{tmp_path}/zeo.conf']


def test_zsh_understands_its_script(script):
    skip_without('zsh')
    file = script('zsh')
    call('zsh', '-f', '-n', file)
    text = file.read_text()
    assert text.startswith('#compdef zeo-clone\n')
    for name, options in OPTIONS.items():
        assert f'{name})' in text
        assert all(option in text for option in options)


def test_manual_has_a_page_for_each_command_with_all_options(manual):
    """T1"""
    assert {path.name for path in manual.iterdir()} == {
        'zeo-clone.1', *(f'zeo-clone-{name}.1' for name in COMMANDS)}
    for name, options in OPTIONS.items():
        text = (manual / f'zeo-clone-{name}.1').read_text().replace('\\', '')
        assert COMMANDS[name].summary in text
        assert [option for option in options if f'fB{option}fR' not in text and option not in (
            '-h', '--help')] == []


def test_man_has_nothing_to_complain_of(manual):
    skip_without('groff')
    for path in manual.iterdir():
        code, shown, complaints = run_tool(None, path, command=GROFF)
        assert (code, complaints) == (0, '') and 'SYNOPSIS' in shown, shown


def test_without_the_extra_it_is_said_what_to_install(tmp_path):
    for name, argument, package in [('completion', 'bash', 'shtab'), ('man', tmp_path, 'argparse_manpage')]:
        (tmp_path / f'{package}.py').write_text('raise ImportError')
        code, out, err = run_tool(None, name, argument, command=MODULE, PYTHONPATH=f'{tmp_path}')
        assert (code, out) == (1, '') and 'pip install "zeo_clone[manual]"' in err


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / 'file').touch()
    code, out, err = run_tool(None, 'man', tmp_path / 'file', command=MODULE)
    assert (code, out) == (1, '') and f'cannot write {tmp_path}/file: ' in err
