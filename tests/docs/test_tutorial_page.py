"""docs/tutorial.md says of examples/chatter.py what is in it, and of the wire what is to be seen there."""
from __future__ import annotations

import pickle
import re

import pytest

from tests.docs.pages import CHECKOUT, Reader, blocks
from tests.examples.programs import Gate, Program
from tests.support.proxy import UP

pytestmark = pytest.mark.once

PAGE = 'tutorial.md'


def texts(language):
    return [block.text for block in blocks(PAGE) if block.language == language]


@pytest.mark.parametrize('text', texts('py'))
def test_the_page_shows_the_program_as_it_is(text):
    assert text in (CHECKOUT / 'examples' / 'chatter.py').read_text(encoding='utf-8')


def test_the_page_shows_a_conflict(tmp_path):
    directory = tmp_path / 'reader'
    directory.mkdir()
    with Reader(directory) as reader:
        reader.follow(PAGE)
    assert reader.output.endswith('\nConflictError\ntea\n')


def told(who):
    """What the page says of the frames of one person: ``[('>', 'vote'), ...]``."""
    text, = texts('wire')
    return re.findall(rf'^{who}  ([<>])  (\.?\w+)', text, re.MULTILINE)


def seen(record):
    """The same of recorded frames."""
    return [('>' if direction == UP else '<', pickle.loads(frame)[2]) for direction, frame in record]


def test_the_page_shows_all_that_is_on_the_wire(server_process):
    with (Gate(server_process.address) as ada_gate, Gate(server_process.address) as bob_gate,
          Program('chatter.py', ada_gate.address, 'general', 'Ada') as ada):
        ada.read_until('Ctrl-D leaves')
        with Program('chatter.py', bob_gate.address, 'general', 'Bob') as bob:
            for word in ('first', 'hello'):
                ada_gate.record.clear()
                bob_gate.record.clear()
                ada.send(word)
                bob.read_until(word)
                ada.read_until(word)
            assert seen(ada_gate.record) == told('Ada')
            assert seen(bob_gate.record) == told('Bob')
            begin, = (pickle.loads(frame)[3] for _, frame in ada_gate.record if b'tpc_begin' in frame)
    assert f'tpc_begin{begin!r}' in texts('wire')[0]
