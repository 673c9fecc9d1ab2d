"""A process that computes, with ordinary priority, until the one that started it, PID, has gone.

What else a machine has to do: it takes a processor whenever it gets one, and never waits.
"""
from __future__ import annotations

import os
import sys

parent = int(sys.argv[1])
while os.getppid() == parent:
    sum(range(100_000))
