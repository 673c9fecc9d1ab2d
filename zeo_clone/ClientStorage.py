"""The face of the client: ``from zeo_clone import ClientStorage``, as in the ZEO tutorial."""
from __future__ import annotations

from zeo_clone.client.storage import ClientStorage

__all__ = ['ClientStorage']
