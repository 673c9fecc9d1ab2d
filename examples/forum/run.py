"""Starts the forum: ``python -m forum.run localhost:9100 --workers 4``.

It makes the forum, if there is none, and a listening socket for each worker, which it gives to a new
process.  The workers have ports of their own, so that one can talk to a certain one; in real life a proxy
in front would spread the visitors over them.  Ctrl-C, or SIGTERM, stops all.
"""
from __future__ import annotations

import argparse
import multiprocessing
import multiprocessing.connection
import signal
import socket
import sys
from contextlib import ExitStack, closing

from zeo_clone.addresses import parse_address
from zeo_clone.Exceptions import ClientDisconnected

try:
    from forum.model import Forum
    from forum.worker import open_database, serve
except ModuleNotFoundError as error:
    sys.exit(f"forum: {error.name} is not found: it needs pip install '.[examples]', and is started in "
             'examples/ by python -m forum.run')

# Each worker is a fresh Python, not a copy of this one.
SPAWN = multiprocessing.get_context('spawn')


def main():
    options = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with ExitStack() as stack:
        try:
            listeners = [stack.enter_context(listen(options, number)) for number in range(options.workers)]
            make_forum(options.address)
        except (OSError, ClientDisconnected) as error:
            return f'forum: {error}'
        urls = [f'http://{options.host}:{listener.getsockname()[1]}' for listener in listeners]
        workers = [SPAWN.Process(target=serve, args=(options.address, listener, url, urls))
                   for listener, url in zip(listeners, urls, strict=True)]
        return run(workers, urls)


def make_forum(address):
    """Have a forum in the database.  The workers, all at once, would be in each other's way."""
    with closing(open_database(address, label='forum')) as db, db.transaction() as connection:
        if 'forum' not in connection.root():
            connection.root()['forum'] = Forum()


def listen(options, number):
    """A listening socket for the worker of that number."""
    return socket.create_server((options.host, options.port and options.port + number))


def run(workers, urls):
    """Start the workers and wait; what went wrong, or None."""
    try:
        for worker, url in zip(workers, urls, strict=True):
            worker.start()
            print(f'worker {worker.pid} serves {url}', flush=True)
        multiprocessing.connection.wait([worker.sentinel for worker in workers])
        return 'forum: a worker has ended, so all do; it may have said why above'
    except KeyboardInterrupt:
        return None
    finally:
        stop(workers)


def stop(workers):
    for worker in workers:
        if worker.pid is not None:
            worker.terminate()
            worker.join()


def address(text):
    try:
        return parse_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def parse_arguments():
    parser = argparse.ArgumentParser(description='A discussion site over a database server.')
    parser.add_argument('address', nargs='?', default='localhost:9100', type=address,
                        help='of the database server (default: localhost:9100)')
    parser.add_argument('--workers', type=int, default=4, metavar='N', help='processes (default: 4)')
    parser.add_argument('--host', default='127.0.0.1', help='where to listen (default: 127.0.0.1)')
    parser.add_argument('--port', type=int, default=8081,
                        help='of the first worker, the next has the next; 0: any (default: 8081)')
    return parser.parse_args()


if __name__ == '__main__':
    sys.exit(main())
