"""Many readers for the forum: ``python -m forum.load http://127.0.0.1:8081``.

It writes some stories and comments if there are none, then reads: mostly the front page and the hottest
stories, as people do, and now and then somebody votes.  Then it prints what each worker did meanwhile.
What to look at: how few objects the server was asked for.  Run it a second time: they are fewer still.
"""
from __future__ import annotations

import argparse
import http.client
import random
import urllib.parse
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from forum.stats import ask

COMMENTS = 5            # that a new story gets
VOTES = 0.02            # share of the requests that are votes
FRONT = 0.3             # share of those that read the front page
WHO = 'A penguin', 'The mayor', 'My aunt', 'Nobody', 'The night train', 'An old computer'
DOES = 'was seen in town', 'has learned to count', 'won the race', 'is back', 'wants more tea'
COLUMNS = ('pages', 'hits', 'misses')
ROW = '{:<28}{:>10}{:>14}{:>14}{:>16}'


class Visitor:
    """A browser without a screen: it stays with one worker."""

    def __init__(self, url, stories, seed):
        self._http = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc)
        self._random = random.Random(seed)
        self._stories = stories

    def close(self):
        self._http.close()

    def visit(self):
        """Look at something."""
        if self._random.random() < FRONT:
            self.get('/')
            return
        # The first stories are the hot ones: half of the readers go to the first tenth.
        number = 1 + int(self._stories * self._random.random() ** 3.3)
        self.get(f'/story/{number}')
        if self._random.random() < VOTES:
            self.post(f'/story/{number}/vote')

    def get(self, path):
        return self._ask('GET', path)

    def post(self, path, **fields):
        """Send a form; the path of the page that the forum shows next."""
        body = urllib.parse.urlencode(fields)
        return self._ask('POST', path, body, {'Content-Type': 'application/x-www-form-urlencoded'})

    def _ask(self, *request):
        self._http.request(*request)
        response = self._http.getresponse()
        body = response.read().decode()
        if response.status not in (200, 303):
            raise SystemExit(f'{request[0]} {request[1]} failed: {response.status} {response.reason}')
        return response.headers['Location'] or body


def write_stories(url, count):
    """Have at least `count` stories in the forum."""
    with closing(Visitor(url, count, seed=0)) as author:
        number = 0
        while number < count:
            title = f'{random.choice(WHO)} {random.choice(DOES)}'
            story = author.post('/submit', author='load', title=title)
            for comment in range(COMMENTS):
                author.post(f'{story}/comment', author='load', text=f'I saw it. ({comment + 1})')
            number = int(story.rpartition('/')[2])


def read(urls, options):
    """Send many visitors, all at once, to all workers in turn."""
    def visit(number):
        with closing(Visitor(urls[number % len(urls)], options.stories, seed=number)) as visitor:
            for _ in range(options.requests // options.visitors):
                visitor.visit()

    with ThreadPoolExecutor(options.visitors) as pool:
        for _ in pool.map(visit, range(options.visitors)):
            pass  # this raises what went wrong there


def numbers(urls):
    return {url: Counter({column: ask(url)[column] for column in COLUMNS}) for url in urls}


def show(before, after):
    print(ROW.format('worker', 'pages', 'cache hits', 'server asked', 'per 100 pages'))
    done = {url: after[url] - before[url] for url in after}
    for url, worker in [*done.items(), ('all', sum(done.values(), Counter()))]:
        share = 100 * worker['misses'] / max(1, worker['pages'])
        print(ROW.format(url, *(worker[column] for column in COLUMNS), f'{share:.1f}'))


def main():
    parser = argparse.ArgumentParser(description='Many readers for the forum.')
    parser.add_argument('url', nargs='?', default='http://127.0.0.1:8081', help='of any worker')
    parser.add_argument('--stories', type=int, default=200, metavar='N', help='to read (default: 200)')
    parser.add_argument('--requests', type=int, default=4000, metavar='N', help='altogether (default: 4000)')
    parser.add_argument('--visitors', type=int, default=8, metavar='N', help='at the same time (default: 8)')
    options = parser.parse_args()
    try:
        urls = ask(options.url)['urls']
    except OSError as error:
        raise SystemExit(f'no forum at {options.url}: {error}') from None
    write_stories(options.url, options.stories)
    before = numbers(urls)
    read(urls, options)
    show(before, numbers(urls))


if __name__ == '__main__':
    main()
