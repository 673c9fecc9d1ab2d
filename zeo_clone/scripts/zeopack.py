"""The classic place of zeopack; it is in `zeo_clone.commands.pack`."""
from __future__ import annotations

import sys

from zeo_clone.commands.pack import main

__all__ = ['main']

if __name__ == '__main__':
    sys.exit(main())
