"""The classic place of zeoctl; it is in `zeo_clone.commands.ctl`."""
from __future__ import annotations

import sys

from zeo_clone.commands.ctl import main

__all__ = ['main']

if __name__ == '__main__':
    sys.exit(main())
