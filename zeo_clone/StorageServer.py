"""The server's face: what code that knows ZEO imports from here."""
from __future__ import annotations

from zeo_clone.server.server import Closed, Serving, StorageServer

__all__ = ['Closed', 'Serving', 'StorageServer']
