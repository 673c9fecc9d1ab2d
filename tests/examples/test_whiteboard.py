"""examples/whiteboard.py: two windows on a display that nobody sees, one server."""
from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import time
from contextlib import closing

import pytest
import transaction

import zeo_clone
from tests.examples.programs import LIMIT_S, Gate
from tests.support.proxy import UP
from tests.support.server_process import package_path

pytestmark = pytest.mark.once

pytest.importorskip('tkinter')

WHITE, BLACK, RED = '#ffffff', '#1f2937', '#dc2626'
CONNECTED, AWAY = '#e5e7eb', '#b91c1c'  # the line at the bottom
LEFT, RIGHT = 0, 660  # where the windows are
BOTTOM = 440
POLL_S = 0.01


class Display:
    """An X server without a screen, whose picture is a file, and its mouse.  A context manager."""

    def __init__(self, directory):
        self._picture = directory / 'Xvfb_screen0'
        read_end, write_end = os.pipe()
        self._server = subprocess.Popen(
            ['Xvfb', '-displayfd', str(write_end), '-screen', '0', '1320x480x24', '-nolisten', 'tcp',
             '-fbdir', str(directory)], pass_fds=[write_end], stderr=subprocess.DEVNULL)
        os.close(write_end)
        with open(read_end) as number:
            self.name = f':{number.readline().strip()}'

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.terminate()
        self._server.wait()

    def xdotool(self, *arguments):
        """Move the mouse, look for windows; what xdotool says."""
        done = subprocess.run(['xdotool', *map(str, arguments)], env={**os.environ, 'DISPLAY': self.name},
                              capture_output=True, text=True, check=True, timeout=LIMIT_S)
        return done.stdout

    def click(self, x, y):
        self.xdotool('mousemove', x, y, 'click', 1)

    def drag(self, x, y, to_x, to_y):
        self.xdotool('mousemove', x, y, 'mousedown', 1, 'mousemove', to_x, to_y, 'mouseup', 1)

    def row(self, y):
        """The colours of a row of the screen, left to right."""
        data = self._picture.read_bytes()  # in the format of xwd
        header_size, *_ = header = struct.unpack_from('>20I', data)
        bytes_per_line, colours = header[12], header[19]
        start = header_size + 12 * colours + y * bytes_per_line
        pixels = data[start:start + bytes_per_line]
        return [f'#{pixels[at:at + 3][::-1].hex()}' for at in range(0, len(pixels), 4)]  # blue is first

    def wait_for(self, colour, x, y):
        """Wait until the pixel at (x, y) has the colour."""
        deadline = time.monotonic() + LIMIT_S
        while (seen := self.row(y)[x]) != colour:
            assert time.monotonic() < deadline, f'({x}, {y}) is {seen}, not {colour}'
            time.sleep(POLL_S)


@pytest.fixture(scope='module')
def display(tmp_path_factory):
    for program in 'Xvfb', 'xdotool':
        if not shutil.which(program):
            pytest.skip("needs Debian's xvfb and xdotool")
    with Display(tmp_path_factory.mktemp('display')) as display:
        yield display


@pytest.fixture
def window(program, server_process, display):
    """Open a window: ``window(x)``; what it says of the server is waited for."""
    def start(x, address=None, status=CONNECTED):
        running = program('whiteboard.py', address or server_process.address, '--geometry', f'+{x}+0',
                          DISPLAY=display.name)
        display.wait_for(WHITE, x + 300, 200)
        display.wait_for(status, x + 600, BOTTOM)
        return running
    return start


@pytest.fixture
def whiteboard(server_process, examples_path):
    """The Whiteboard in the database, seen from this process."""
    import whiteboard
    with closing(zeo_clone.DB(server_process.address)) as db, closing(db.open()) as connection:
        yield whiteboard.open_whiteboard(connection)
        transaction.abort()


def strokes(whiteboard):
    """What the database has: ``[(colour, points), ...]``."""
    whiteboard._p_jar.db().storage.ping()
    transaction.begin()
    return [(stroke.colour, stroke.points) for stroke in whiteboard.strokes.values()]


def wait_for_strokes(whiteboard, count):
    """Wait until the database has so many; a window shows its own a moment before.  Returns them."""
    deadline = time.monotonic() + LIMIT_S
    while len(found := strokes(whiteboard)) != count:
        assert time.monotonic() < deadline, f'{found}: not {count}'
        time.sleep(POLL_S)
    return found


def test_a_stroke_in_one_window_is_seen_in_the_other_until_one_clears_them(window, display, whiteboard):
    window(LEFT), window(RIGHT)
    display.drag(100, 100, 300, 100)
    display.wait_for(BLACK, RIGHT + 200, 100)
    display.click(display.row(15).index(RED), 15)
    display.drag(100, 200, 300, 200)
    display.wait_for(RED, RIGHT + 200, 200)
    display.drag(RIGHT + 100, 300, RIGHT + 300, 300)  # this window has a colour of its own
    display.wait_for(BLACK, LEFT + 200, 300)
    assert [colour for colour, _ in strokes(whiteboard)] == [BLACK, RED, BLACK]
    display.click(RIGHT + 620, 15)
    for x in LEFT, RIGHT:
        for y in 100, 200, 300:
            display.wait_for(WHITE, x + 200, y)
    assert strokes(whiteboard) == []


def test_who_comes_later_sees_what_was_drawn_before(window, display, whiteboard, server_process):
    """A dot, the stroke of a click.  The windows' title says where the server is."""
    first = window(LEFT)
    host, port = server_process.address
    assert display.xdotool('search', '--name', f'^Whiteboard at {re.escape(host)}:{port}$')
    display.click(200, 100)
    [(_, (x, _, to_x, _))] = wait_for_strokes(whiteboard, 1)
    assert (x, to_x) == (200, 201)
    assert first.interrupt() == 0
    window(RIGHT)
    display.wait_for(BLACK, RIGHT + 200, 100)


def test_what_two_draw_at_the_same_time_is_merged(window, display, whiteboard, server_process):
    """The window's commit is held while another one is made; it needs no second attempt."""
    from whiteboard import Stroke
    with Gate(server_process.address) as gate:
        window(LEFT, gate.address)
        display.drag(100, 100, 300, 100)
        display.wait_for(BLACK, 200, 100)
        [(_, (_, y, *_))] = wait_for_strokes(whiteboard, 1)  # on the canvas, which begins below the buttons
        gate.hold(UP, b'vote')
        display.drag(100, 200, 300, 200)
        assert gate.held.wait(LIMIT_S)
        whiteboard.add(Stroke(RED, (100, y + 200, 300, y + 200)))
        transaction.commit()
        gate.let_go()
        display.wait_for(RED, 200, 300)  # it is shown when the own one was committed
        display.wait_for(BLACK, 200, 200)
    assert [colour for colour, _ in strokes(whiteboard)] == [BLACK, BLACK, RED]
    assert not any(b'tpc_abort' in frame for _, frame in gate.record)


def test_a_server_that_is_away_is_shown_in_the_window(window, display, whiteboard, server_process):
    """At the start too.  The picture stays; a stroke that cannot be stored does not."""
    server_process.stop()
    program = window(LEFT, status=AWAY)
    server_process.start()
    display.wait_for(CONNECTED, 600, BOTTOM)
    display.drag(100, 100, 300, 100)
    wait_for_strokes(whiteboard, 1)
    server_process.stop()
    display.wait_for(AWAY, 600, BOTTOM)
    display.drag(100, 200, 300, 200)
    display.wait_for(WHITE, 200, 200)
    display.wait_for(BLACK, 200, 100)
    server_process.start()
    display.wait_for(CONNECTED, 600, BOTTOM)
    display.drag(100, 200, 300, 200)
    display.wait_for(BLACK, 200, 200)
    assert program.interrupt() == 0
    assert program.errors() == ''


def test_without_a_display_it_says_so_in_one_line(program, server_process):
    running = program('whiteboard.py', server_process.address, DISPLAY='')
    assert running.wait() == 1
    assert re.fullmatch(r'whiteboard\.py: .*display.*\n', running.errors())


def test_a_python_without_tk_gets_a_hint(program, server_process, tmp_path):
    (tmp_path / 'tkinter.py').write_text("raise ImportError(\"No module named '_tkinter'\")")
    running = program('whiteboard.py', server_process.address,
                      PYTHONPATH=f'{tmp_path}{os.pathsep}{package_path()}')
    assert running.wait() == 1
    assert running.errors() == (
        "whiteboard.py: this Python cannot open windows (No module named '_tkinter'); "
        'it needs Tk: apt-get install python3-tk, or a Python that was built with tk-dev installed\n')
