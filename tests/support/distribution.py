"""Our package as others get it: a wheel, and virtual environments in which it is installed.

Nothing is fetched: what a wheel requires is borrowed from environments that have it.  Belongs to one thread
of the test.
"""
from __future__ import annotations

import shutil
import sys
import venv
from pathlib import Path

from tests.support.tool_process import call

CHECKOUT = Path(__file__).parent.parent.parent
PLACE = 'import sysconfig; print(sysconfig.get_path("purelib"))'
#: Writes the commands that the environment's packages declare, borrowed ones too, beside its Python.
COMMANDS = """
import sys
from importlib.metadata import entry_points
from pathlib import Path
for entry in entry_points(group='console_scripts'):
    script = Path(sys.executable).parent / entry.name
    if not script.exists():
        function = entry.attr.partition('.')[0]
        script.write_text(f'#!{sys.executable}\\nimport sys\\nfrom {entry.module} import {function}\\n'
                          f'sys.exit({entry.attr}())\\n')
        script.chmod(0o755)
"""


def pip(*arguments):
    """Run pip, which must neither look for packages nor install any but those named."""
    call(sys.executable, '-m', 'pip', *arguments, '--quiet', '--no-deps', '--no-index')


def build_wheel(directory):
    """The wheel, built in `directory` from a copy of what belongs to it."""
    source = directory / 'source'
    ignored = shutil.ignore_patterns('__pycache__')
    shutil.copytree(CHECKOUT / 'zeo_clone', source / 'zeo_clone', ignore=ignored)
    for name in ('pyproject.toml', 'README.md', 'LICENSE'):
        shutil.copy(CHECKOUT / name, source)
    pip('wheel', '--no-build-isolation', '--wheel-dir', directory / 'dist', source)
    wheel, = (directory / 'dist').glob('*.whl')
    return wheel


def packages_of(python):
    """Where a Python's packages are."""
    return Path(call(python, '-c', PLACE).strip())


def make_environment(directory, wheel, lender):
    """A virtual environment with the wheel, and whatever else the Python `lender` has; its ``bin``.

    Editable installations of the lender do not count, nor do its commands.
    """
    venv.create(directory, symlinks=True)
    python = directory / 'bin' / 'python'
    pip('--python', python, 'install', wheel)
    (packages_of(python) / 'borrowed.pth').write_text(f'{packages_of(lender)}\n')
    return directory / 'bin'


def borrow_commands(place):
    """Add the commands of borrowed packages to the environment whose ``bin`` is `place`; its own stay."""
    call(place / 'python', '-c', COMMANDS)
