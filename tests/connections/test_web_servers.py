"""N10: web servers that open the database and then fork their workers, as real programs."""
from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.support.json_process import child_environment
from tests.support.server_process import package_path

BIN = Path(sys.executable).parent
APPLICATION = 'tests.connections.preloaded:application'
WORKERS = 2
REQUESTS = 60
LIMIT_S = 600  # only a server that hangs meets it

GUNICORN = [BIN / 'gunicorn', '--preload', '--workers', WORKERS, '--bind', 'unix:{socket}']
UWSGI = [BIN / 'uwsgi', '--http-socket', '{socket}', '--module', APPLICATION, '--processes', WORKERS,
         '--master', '--die-on-term', '--need-app', '--listen', '64']
SERVERS = {
    'gunicorn': [*GUNICORN, APPLICATION],
    'gunicorn with threads': [*GUNICORN, '--threads', 3, APPLICATION],
    'uwsgi': UWSGI,
    'uwsgi with the GIL': [*UWSGI, '--enable-threads'],
    'uwsgi with threads': [*UWSGI, '--threads', 3],
    'uwsgi without a master': [*(word for word in UWSGI if word != '--master'), '--enable-threads'],
}


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path):
        super().__init__('localhost', timeout=LIMIT_S)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class WebServer:
    """A running web server with its workers."""

    def __init__(self, command, directory, address):
        self._socket = str(directory / 'socket')
        self.log = directory / 'log'
        words = [str(word).format(socket=self._socket) for word in command]
        environment = {**child_environment(package_path()), 'ZEO_ADDRESS': f'{address[0]}:{address[1]}'}
        with open(self.log, 'wb') as log:
            self._process = subprocess.Popen(words, stdout=log, stderr=log, env=environment,
                                             start_new_session=True)
        self._limit = threading.Timer(LIMIT_S, self._kill)
        self._limit.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()
        self._kill()
        self._limit.cancel()
        self._limit.join()

    def _kill(self):
        """It and its workers, which a master that is killed leaves behind."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def get(self):
        """The answer to one request; waits until the server listens."""
        while True:
            connection = UnixConnection(self._socket)
            try:
                connection.request('GET', '/')
                response = connection.getresponse()
                body = response.read()
                assert response.status == 200, self.log.read_text()
                return json.loads(body)
            except (FileNotFoundError, ConnectionRefusedError):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    pytest.fail(f'exit code {self._process.wait(0.02)}: {self.log.read_text()}')
            finally:
                connection.close()


@pytest.mark.once
@pytest.mark.parametrize('name', SERVERS)
def test_each_worker_has_a_connection_of_its_own(name, server_process, tmp_path):
    """N10: no worker sees what another one asked for, and no request is lost or counted twice."""
    if not SERVERS[name][0].exists():
        pytest.skip(f'there is no {SERVERS[name][0]}')
    with WebServer(SERVERS[name], tmp_path, server_process.address) as server:
        answers = []

        def ask():
            for _ in range(REQUESTS // 6):
                answers.append(server.get())  # noqa: PERF401 - each as it comes

        while len({pid for pid, _, _ in answers}) < WORKERS:
            threads = [threading.Thread(target=ask) for _ in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert [wrong for _, wrong, _ in answers if wrong] == []
        assert sorted(count for _, _, count in answers) == list(range(1, len(answers) + 1))
