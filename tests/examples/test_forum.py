"""examples/forum: several workers of a web site before one server; its visitors, and a real browser."""
from __future__ import annotations

import http.client
import json
import re
import shutil
import signal
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from tests.examples.programs import EXAMPLES, LIMIT_S, Program, run_example
from tests.support.server_process import ServerProcess

pytestmark = pytest.mark.once

pytest.importorskip('bottle')
pytest.importorskip('waitress')

WORKERS = 3
MARKUP = '<script>alert("x")</script> & Ünïcode'
ESCAPED = '&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt; &amp; Ünïcode'


class Answer(NamedTuple):
    status: int
    body: str
    location: str


def ask(url, path, form=None):
    """One request; a POST if there is a `form`."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=LIMIT_S)
    try:
        if form is None:
            connection.request('GET', path)
        else:
            connection.request('POST', path, urllib.parse.urlencode(form),
                               {'Content-Type': 'application/x-www-form-urlencoded'})
        response = connection.getresponse()
        return Answer(response.status, response.read().decode(), response.headers['Location'])
    finally:
        connection.close()


def ask_until(url, path, text):
    """Ask again until the page has `text`, as a worker is told of changes a moment later; the page."""
    deadline = time.monotonic() + LIMIT_S
    while text not in (body := ask(url, path).body):
        assert time.monotonic() < deadline, f'{url}{path} does not show {text!r} but:\n{body}'
    return body


def submit(url, **fields):
    """Write a story; the path of its page."""
    answer = ask(url, '/submit', {'author': 'Ada', 'title': 'A story', **fields})
    assert answer.status == 303
    return answer.location


@contextmanager
def running_forum(server, workers):
    """A forum at `server`; the URLs of its workers."""
    with Program('forum.run', server.address, '--workers', workers, '--port', 0, cwd=EXAMPLES) as program:
        try:
            yield [re.search(r'serves (\S+)', program.read_until('\n'))[1] for _ in range(workers)]
        finally:
            program.signal(signal.SIGTERM)
            assert program.wait() == 0


@pytest.fixture(scope='module')
def urls(tmp_path_factory):
    """The URLs of the workers of a forum that runs for all tests of this module."""
    path = tmp_path_factory.mktemp('forum') / 'Data.fs'
    with ServerProcess([{'kind': 'file', 'path': str(path)}]) as server, \
            running_forum(server, WORKERS) as urls:
        yield urls


@pytest.fixture
def browser(tmp_path):
    """A browser that nobody sees."""
    webdriver = pytest.importorskip('selenium.webdriver')
    chromium, driver = shutil.which('chromium'), shutil.which('chromedriver')
    if not chromium or not driver:
        pytest.skip("needs Debian's chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for option in ('--headless=new', '--no-sandbox', '--disable-dev-shm-usage', '--disable-gpu',
                   f'--user-data-dir={tmp_path / "profile"}'):
        options.add_argument(option)
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as browser:
        yield browser


def test_what_is_written_at_one_worker_is_shown_by_all_and_never_as_html(urls):
    first = urls[0]
    path = submit(first, author=MARKUP[:40], title=MARKUP, text=MARKUP, link='https://example.org/?a="&b')
    assert ask(first, f'{path}/comment', {'author': 'Bob', 'text': MARKUP}).status == 303
    for url in urls:
        ask_until(url, '/', ESCAPED)
        body = ask_until(url, path, 'Bob, just now')
        assert body.count(ESCAPED) == 5  # the page's title, the heading, the author, the text, the comment
        assert 'href="https://example.org/?a=&quot;&amp;b"' in body
        assert '<script>' not in body


@pytest.mark.parametrize('wrong, complaint', [
    ({'title': ' '}, 'Please fill in the title.'),
    ({'title': 'x' * 121}, 'The title is too long: at most 120 characters.'),
    ({'link': 'javascript:alert(1)'}, 'The link must begin with http'),
])
def test_a_form_that_cannot_be_taken_is_shown_again_with_the_reason(urls, wrong, complaint):
    answer = ask(urls[0], '/submit', {'author': 'Ada', 'title': 'Good', 'text': 'typed', **wrong})
    assert answer.status == 400
    assert complaint in answer.body
    assert '>typed</textarea>' in answer.body


@pytest.mark.parametrize('path', ['/story/12345678', '/story/99999999999999999999', '/nothing'])
def test_a_page_that_is_not_there_is_404(urls, path):
    answer = ask(urls[0], path)
    assert answer.status == 404
    assert 'Not here' in answer.body


def test_nothing_is_lost_when_all_workers_write_the_same_story(urls):
    """Votes are merged by the server; stories and comments with the same number are written again."""
    path = submit(urls[0])
    for url in urls:
        ask_until(url, path, 'A story')

    def visitor(url, number):
        name = f'visitor {number}'
        answers = [ask(url, f'{path}/vote', {}) for _ in range(5)]
        answers += [ask(url, f'{path}/comment', {'author': name, 'text': 'me'}) for _ in range(3)]
        assert {answer.status for answer in answers} == {303}
        return submit(url, title=name)

    with ThreadPoolExecutor(2 * WORKERS) as pool:
        paths = [*pool.map(visitor, 2 * urls, range(2 * WORKERS))]
    assert len(set(paths)) == len(paths)
    for url in urls:
        body = ask_until(url, path, f'<b id="votes">{5 * len(paths)}</b>')
        assert f'{3 * len(paths)} comments' in body


def test_the_stories_that_all_read_come_from_the_workers_caches(urls):
    """The load script's second table: what was read before, the server is not asked for again."""
    load = 'forum.load', urls[0], '--stories', 20, '--requests', 300, '--visitors', 6
    for _ in range(2):
        code, table, errors = run_example(*load, cwd=EXAMPLES)
        assert (code, errors) == (0, '')
    *workers, total = [line.split() for line in table.splitlines()[1:]]
    assert [line[0] for line in workers] == urls
    pages, hits, asked = map(int, total[1:4])
    assert pages >= 300
    assert asked < pages, table  # a page is dozens of objects; what is asked for was voted for


def test_any_worker_shows_the_numbers_of_all(urls):
    for url in urls:
        numbers = json.loads(ask(url, '/stats.json').body)
        assert numbers['urls'] == urls
        body = ask(urls[0], '/stats').body
        assert f'<td><a href="{url}/">{url}</a></td><td>{numbers["pid"]}</td>' in body
    assert f'<tr><th>connections</th><td>{WORKERS}</td></tr>' in body


def test_in_a_browser(urls, browser):
    """Forms are filled in and buttons clicked as a visitor does; no script of a visitor runs."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.wait import WebDriverWait
    wait = WebDriverWait(browser, LIMIT_S)

    def click(selector, text_after):
        browser.find_element(By.CSS_SELECTOR, selector).click()
        wait.until(lambda _: text_after in browser.page_source)

    browser.get(urls[0] + '/submit')
    browser.find_element(By.NAME, 'author').send_keys('Ada')
    browser.find_element(By.NAME, 'title').send_keys('<b onclick="x">bold</b>')
    click('.fields button', '0 comments')
    browser.find_element(By.NAME, 'author').send_keys('Bob')
    browser.find_element(By.NAME, 'text').send_keys('Well written.\nAnd short.')
    click('.fields button', '1 comment<')
    click('.vote', '<b id="votes">1</b>')
    assert browser.find_element(By.TAG_NAME, 'h1').text == '<b onclick="x">bold</b>'
    assert browser.find_element(By.CSS_SELECTOR, '.comment .text').text == 'Well written.\nAnd short.'
    background = browser.find_element(By.TAG_NAME, 'header').value_of_css_property('background-color')
    assert background == 'rgba(34, 37, 43, 1)'  # the style sheet has come
    click('.brand', 'class="stories"')
    browser.get(urls[0] + '/stats')
    assert len(browser.find_elements(By.CSS_SELECTOR, '#workers td a')) == WORKERS


def test_while_the_server_is_away_the_pages_of_the_cache_are_shown(server_process):
    with running_forum(server_process, 1) as [url]:
        path = submit(url, title='Read before')
        assert ask(url, path).status == ask(url, '/').status == 200
        server_process.stop()
        ask_until(url, '/stats', 'The database server is away')
        assert 'Read before' in ask(url, path).body
        assert 'Read before' in ask(url, '/').body
        refused = ask(url, f'{path}/vote', {})
        assert refused.status == 503
        assert 'The database server is away, please try again in a moment.' in refused.body
        server_process.start()
        ask_until(url, '/stats', '<th>connections</th>')
        assert ask(url, f'{path}/vote', {}).status == 303


def test_an_address_where_nobody_may_listen_is_one_line(urls):
    taken = urls[0].rpartition(':')[2]
    code, _, errors = run_example('forum.run', '--port', taken, cwd=EXAMPLES)
    assert code == 1
    assert re.fullmatch(r'forum: .*Address already in use.*\n', errors)


def test_started_at_the_wrong_place_it_says_how():
    code, output, errors = run_example('forum/run.py', 'localhost:1')
    assert (code, output) == (1, '')
    assert errors == ("forum: forum is not found: it needs pip install '.[examples]', and is started in "
                      'examples/ by python -m forum.run\n')
