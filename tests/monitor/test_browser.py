"""The page for people, in a real browser without a screen."""
from __future__ import annotations

import contextlib
import os
import threading

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.utils import z64

import zeo_clone
from tests.monitor.test_process import monitor_of
from tests.support.runzeo_process import Runzeo

BROWSER, DRIVER = '/usr/bin/chromium', '/usr/bin/chromedriver'
#: Of Chromium in a container, without a screen, with little shared memory.
OPTIONS = ('--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage',
           '--window-size=1280,1600', '--disable-background-networking', '--no-first-run')
LIMIT_S = 60
LABEL = '<b onclick="x()">instance</b> & "1"'

pytestmark = pytest.mark.skipif(
    not (os.path.exists(BROWSER) and os.path.exists(DRIVER)),
    reason=f'there is no {BROWSER} or no {DRIVER}: apt-get install chromium chromium-driver')


@pytest.fixture
def browser():
    from selenium import webdriver
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
    for option in OPTIONS:
        options.add_argument(option)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def server(tmp_path):
    (tmp_path / 'zeo.conf').write_text(
        f'<zeo>\naddress 127.0.0.1:0\nmetrics-address 127.0.0.1:0\n</zeo>\n'
        f'<filestorage>\npath {tmp_path}/Data.fs\n</filestorage>\n')
    with Runzeo('-C', tmp_path / 'zeo.conf') as server:
        yield server


@contextlib.contextmanager
def load(address):
    """A client that reads and commits as long as the block runs."""
    enough = threading.Event()

    def work():
        connection = zeo_clone.connection(address, client_label=LABEL, cache_size=0)
        with contextlib.closing(connection):
            root, number = connection.root(), 0
            while not enough.wait(0.01):
                number += 1
                root['number'] = number
                connection.transaction_manager.commit()
                connection.cacheMinimize()
                connection.db().storage.loadBefore(z64, b'\x7f' + b'\xff' * 7)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()


class Page:
    """What a person sees."""

    def __init__(self, browser):
        self._browser = browser

    def text(self, selector):
        return self._browser.execute_script(
            'return document.querySelector(arguments[0]).innerText', selector)

    def number(self, key):
        """The large number of a chart's card."""
        return float(self.text(f'[data-key={key}] .value').replace(',', '').replace('–', '0'))

    def curve(self, key):
        """The corners of a chart's first line."""
        return self._browser.execute_script(
            'return document.querySelector(`[data-key=${arguments[0]}] path.k0:not(.area)`).getAttribute("d")'
            '.split(/[ML]/).filter(Boolean)', key)

    def wait(self, condition):
        """Until the page has come to where `condition` holds."""
        from selenium.webdriver.support.wait import WebDriverWait
        WebDriverWait(self._browser, LIMIT_S, poll_frequency=0.05).until(lambda _: condition())

    def background(self, scheme):
        """The page's colours if the user prefers `scheme`: paper and ink, as sums of red, green, blue."""
        self._browser.execute_cdp_cmd('Emulation.setEmulatedMedia', {
            'features': [{'name': 'prefers-color-scheme', 'value': scheme}]})
        return [sum(self._browser.execute_script(
            'return getComputedStyle(document.body)[arguments[0]].match(/\\d+/g).slice(0, 3).map(Number)',
            name)) for name in ('backgroundColor', 'color')]


def test_page_shows_what_goes_on_and_that_the_server_has_gone(browser, server):
    """Renders; its numbers move under load; it says so when the server has gone."""
    host, port = monitor_of(server)
    server.ready()
    page = Page(browser)
    browser.get(f'http://{host}:{port}/?every=0.2')
    page.wait(lambda: page.text('#light') == 'live')
    assert page.text('h1') == 'ZODB server at {}:{}'.format(*server.address)
    page.wait(lambda: len(page.curve('clients')) > 2)
    assert page.number('clients') == page.number('loads') == page.number('commits') == 0
    assert page.text('.lock') == 'free'

    with load(server.address):
        page.wait(lambda: page.number('clients') == 1 and page.number('loads') > 1
                  and page.number('commits') > 1)
        page.wait(lambda: all('s' in text.split(' ')[-1] for text in (
            page.text('[data-key=load] .legend'), page.text('[data-key=commit] .legend'))))
        heights = {float(corner.split(' ')[1].removesuffix('h0.01')) for corner in page.curve('commits')}
        assert len(heights) > 1
        page.wait(lambda: LABEL in page.text('table'))
        assert browser.execute_script('return document.querySelectorAll("b[onclick]").length') == 0

    hold_the_lock(server.address, page)

    light, dark = page.background('light'), page.background('dark')
    assert light[0] > 600 > 200 > light[1]
    assert dark[0] < 200 < 600 < dark[1]

    severe = [entry for entry in browser.get_log('browser') if entry['level'] == 'SEVERE']
    assert severe == []
    assert server.stop() == 0
    page.wait(lambda: page.text('#light') == 'gone')
    assert page.text('#alarm').startswith('The server has gone\nIt does not answer')
    assert browser.title.startswith('GONE – ZODB server at ')
    for entry in browser.get_log('browser'):
        assert entry['level'] != 'SEVERE' or '/status.json - Failed to load' in entry['message'], entry


def hold_the_lock(address, page):
    """The page names who holds the commit lock and who waits, text for text."""
    with contextlib.closing(zeo_clone.client(address, client_label='holder')) as storage:
        meta = TransactionMetaData('jane', '<i>moves</i> the world')
        storage.tpc_begin(meta)
        storage.store(b'1' * 8, z64, b'cN\nN\n.', '', meta)
        storage.tpc_vote(meta)
        # Until the page is renewed it shows who held the lock during the load before.
        page.wait(lambda: '(holder), voted; user jane, <i>moves</i> the world' in page.text('.lock ~ .soft'))
        assert page.text('.lock').startswith('held for ')
        storage.tpc_abort(meta)
    page.wait(lambda: page.text('.lock') == 'free')
