"""The classic place of the server's command line; it is in `zeo_clone.commands.serve`."""
from __future__ import annotations

import sys

from zeo_clone.commands.serve import ZEOOptions, ZEOServer, main

__all__ = ['ZEOOptions', 'ZEOServer', 'main']

if __name__ == '__main__':
    sys.exit(main())
