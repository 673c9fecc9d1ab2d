"""The classic place of zeo-nagios; it is in `zeo_clone.commands.nagios`."""
from __future__ import annotations

import sys

from zeo_clone.commands.nagios import check, main

__all__ = ['check', 'main']

if __name__ == '__main__':
    sys.exit(main())
