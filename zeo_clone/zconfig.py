"""The classic place of what configurations become; it is in `zeo_clone.configuration.zconfig`."""
from __future__ import annotations

from zeo_clone.configuration.zconfig import (
    ClientStorageSection,
    Configuration,
    ServerSection,
    client_context,
    load,
    server_context,
)

__all__ = ['ClientStorageSection', 'Configuration', 'ServerSection', 'client_context', 'load',
           'server_context']
