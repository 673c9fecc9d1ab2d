"""Under which names the monitor answers (S15).

In: the header Host of a request, the address at which it arrived.  Out: whether they belong together.  A page
of some other site, whose name has been made to lead here, would otherwise be given what a browser on this
machine or in this network may see.  Pure functions.
"""
from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

#: Characters of a name that are repeated to whoever sent it.
MAX_SHOWN = 100
_HOST = re.compile(r'(?:\[([0-9a-fA-F:.]+(?:%[\w.~%-]+)?)\]|([^\[\]:/?#@\s,]+))(?::[0-9]{0,5})?')


def host_name(text: str) -> str:
    """The name in ``name``, ``name:port``, ``1.2.3.4``, ``[::1]:80``, in its normal form.

    Raises ValueError.
    """
    found = _HOST.fullmatch(text.strip())
    if found is None:
        raise ValueError(f'{text!r:.{MAX_SHOWN}} is no host: allowed are a name, an IPv4 address, or an IPv6 '
                         'address between brackets')
    return _normal(found[1] or found[2])


def _normal(name: str) -> str:
    try:
        address = ipaddress.ip_address(name.partition('%')[0])
    except ValueError:
        return name.lower().removesuffix('.')
    return str(getattr(address, 'ipv4_mapped', None) or address)


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == 'localhost'


class Hosts:
    """``localhost``, the address at which a request arrives, and `names`."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = {_normal(name) for name in names}

    def refusal(self, host: str, arrived_at: str) -> str | None:
        """What is wrong with the header `host` of a request that arrived at the address `arrived_at`; None:
        nothing.
        """
        try:
            name = host_name(host)
        except ValueError as error:
            return str(error)
        if _is_loopback(name) or name in self._names or arrived_at and name == _normal(arrived_at):
            return None
        return (f'this server does not answer for {name!r:.{MAX_SHOWN}}, only for localhost, its own address '
                'and the names that its configuration gives: if this is one of them, add '
                f'"metrics-host {name:.{MAX_SHOWN}}" to <zeo>')
