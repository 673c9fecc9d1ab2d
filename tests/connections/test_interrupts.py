"""Signals whose handlers raise, while several threads use one connection."""
from __future__ import annotations

import subprocess
import sys

SCRIPT = '''
import faulthandler, signal, sys, threading
from ZODB.utils import maxtid, p64, z64
from ZODB.Connection import TransactionMetaData
from zeo_clone.ClientStorage import ClientStorage

class Interrupt(Exception):
    """What the handler raises: into any step of the main thread."""

storage = ClientStorage(('127.0.0.1', int(sys.argv[1])), cache_size=0, wait_timeout=20)
COUNT, INTERRUPTS = 200, 600
transaction = TransactionMetaData()
storage.tpc_begin(transaction)
for number in range(COUNT):
    storage.store(p64(number), z64, b'%d' % number, '', transaction)
storage.tpc_vote(transaction)
storage.tpc_finish(transaction)

stopping = threading.Event()
wrong = []

def load(turn):
    number = turn % COUNT
    data = storage.loadBefore(p64(number), maxtid)[0]
    if data != b'%d' % number:
        wrong.append((number, data))

def work():
    turn = 0
    while not stopping.is_set():
        load(turn)
        turn += 1

armed = False

def handler(number, frame):
    if armed:
        raise Interrupt

def until_interrupted():
    global armed
    try:
        armed, turn = True, 0
        while True:
            load(turn)
            turn += 1
    finally:
        armed = False

threads = [threading.Thread(target=work) for _ in range(5)]
for thread in threads:
    thread.start()
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.003, 0.003)
faulthandler.dump_traceback_later(50, exit=True)
interrupts = 0
while interrupts < INTERRUPTS:
    try:
        until_interrupted()
    except Interrupt:
        interrupts += 1
signal.setitimer(signal.ITIMER_REAL, 0)
stopping.set()
for thread in threads:
    thread.join()
storage.close()
print(interrupts, wrong)
'''


def test_hundreds_of_exceptions_in_any_step_leave_nobody_waiting(server_process):
    """Each of them may end the connection, never another thread's wait."""
    done = subprocess.run([sys.executable, '-c', SCRIPT, str(server_process.address[1])],
                          capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, '600 []\n'), done.stderr
