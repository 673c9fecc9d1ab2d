"""Channels: the one joint of the sans-I/O cores with sockets."""
from __future__ import annotations

from zeo_clone.zrpc.channel.calls import PendingCall
from zeo_clone.zrpc.channel.client import ClientChannel
from zeo_clone.zrpc.channel.server import ServerChannel

__all__ = ['ClientChannel', 'PendingCall', 'ServerChannel']
