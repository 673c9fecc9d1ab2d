"""The part of the page that a reader types in: two databases, two servers, a client, a fail-over."""
from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.postgres import find_programs, lesser_user
from tests.docs.pages import Reader, blocks

pytestmark = [pytest.mark.long, pytest.mark.once]

LIMIT_S = 300  # only what hangs meets it


class PostgresReader(Reader):
    """Runs PostgreSQL's programs as somebody who may, and stops its databases at the end."""

    def type_in(self, text):
        # To a file: a database that pg_ctl starts would keep a pipe open.
        with tempfile.TemporaryFile('w+') as output:
            done = subprocess.run(['bash', '-euc', self.adapt(text)], cwd=self.directory, stdout=output,
                                  stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, timeout=LIMIT_S,
                                  env={**os.environ, 'PATH': f'{find_programs()}:{os.environ["PATH"]}'},
                                  **lesser_user())
            output.seek(0)
            assert done.returncode == 0, output.read()

    def stop(self, name):
        if (self.directory / name / 'postmaster.pid').exists():
            self.type_in(f'pg_ctl -D {name} -m immediate stop')


@pytest.fixture
def reader():
    pytest.importorskip('relstorage', reason='RelStorage is not installed')
    if find_programs() is None:
        pytest.skip('PostgreSQL is not installed')
    with ExitStack() as stack:
        # Not below tmp_path, which another user, who runs PostgreSQL for root, cannot enter.
        place = Path(tempfile.mkdtemp(prefix='zeo-clone-page-'))
        stack.callback(shutil.rmtree, place, ignore_errors=True)
        (place / 'reader').mkdir()
        user = lesser_user()
        if user:
            for path in (place, place / 'reader'):
                os.chown(path, user['user'], user['group'])
        reader = PostgresReader(place / 'reader', limit_s=LIMIT_S)
        stack.callback(reader.stop, 'db1')
        stack.callback(reader.stop, 'db2')
        yield stack.enter_context(reader)


def test_the_client_of_the_page_counts_on_after_a_fail_over(reader):
    """T1, X3: with all that is typed in, in its order."""
    page = blocks('scale-out.md')
    pair, fail_over = (
        next(block for block in page if block.words == (word,)) for word in ('pair', 'fail-over'))
    reader.type_in(pair.text)
    followed = [reader.do(block) for block in page[page.index(pair) + 1:page.index(fail_over)]]
    assert followed == [True] * 4
    for _ in range(2):
        reader.run('python', 'count.py')
    reader.type_in(fail_over.text)
    reader.run('python', 'count.py')
    assert reader.output == '1\n2\n3\n'
