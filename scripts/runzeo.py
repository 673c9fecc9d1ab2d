#!/usr/bin/env python
"""runzeo from a checkout, without installing it: ``python scripts/runzeo.py``."""
from __future__ import annotations

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from zeo_clone.commands.serve import main

if __name__ == '__main__':
    sys.exit(main())
