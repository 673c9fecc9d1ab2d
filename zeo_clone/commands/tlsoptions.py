"""TLS on the command lines of commands that ask a server.

In: an argparse parser, later what it parsed.  Out: options in the parser; a `TLS`.  Reads certificate
files and nothing else.
"""
from __future__ import annotations

import argparse
import os
from typing import Any, NamedTuple

from zeo_clone.configuration.tlsfiles import TLSFiles, holds_key
from zeo_clone.loop.certificates import RenewedContext

#: What an argparse namespace has of them.
NAMES = ('ssl', 'ssl_ca', 'ssl_crl', 'ssl_cert', 'ssl_key', 'ssl_password_file', 'ssl_hostname',
         'ssl_no_hostname_check')


class TLS(NamedTuple):
    """Encryption: an ``ssl.SSLContext``, and the name to look for in the server's certificate."""

    context: Any
    hostname: str | None


def add_tls_options(parser: argparse.ArgumentParser, whose: str = 'the connection') -> None:
    """The options that `tls_from` reads."""
    group = parser.add_argument_group(
        'TLS', f'Any of these encrypts {whose}.  The server is always verified.')
    group.add_argument('--ssl', action='store_true',
                       help='trust the certificate authorities that the system trusts')
    group.add_argument('--ssl-ca', metavar='PATH',
                       help='certificates to trust instead: a PEM file or a directory')
    group.add_argument('--ssl-crl', metavar='PATH',
                       help='revoked certificates: a PEM file or a directory')
    group.add_argument('--ssl-cert', metavar='FILE', help='own certificate, PEM')
    group.add_argument('--ssl-key', metavar='FILE',
                       help="its private key, if that is not in the certificate's file")
    group.add_argument('--ssl-password-file', metavar='FILE',
                       help='file with the password of the private key in its first line')
    group.add_argument('--ssl-hostname', metavar='NAME',
                       help="name to look for in the server's certificate, if it is not the host; needed "
                            'for unix sockets')
    group.add_argument('--ssl-no-hostname-check', action='store_true',
                       help='accept a trusted certificate for any host')


def tls_from(given: argparse.Namespace) -> TLS | None:
    """The TLS that a command line asks for, None if it asks for none.  Raises ``ValueError``."""
    if not any(getattr(given, name) for name in NAMES):
        return None
    if given.ssl_key and not given.ssl_cert:
        raise ValueError('--ssl-key is given without --ssl-cert')
    for path in (given.ssl_ca, given.ssl_crl, given.ssl_cert, given.ssl_key):
        if path and not os.path.exists(path):
            raise ValueError(f'there is no file {path}')
    password = None
    if given.ssl_password_file:
        try:
            with open(given.ssl_password_file, encoding='utf-8') as file:
                text = file.readline().rstrip('\r\n')
        except OSError as error:
            raise ValueError(f'cannot read the password: {error}') from error
        password = lambda: text  # noqa: E731
    files = TLSFiles(False, given.ssl_cert, given.ssl_key, password, given.ssl_ca, given.ssl_crl,
                     not given.ssl_no_hostname_check)
    try:
        return TLS(RenewedContext(files), given.ssl_hostname)
    except ValueError as error:
        if given.ssl_cert and not given.ssl_key and not holds_key(given.ssl_cert):
            raise ValueError(f'{given.ssl_cert} holds no private key: name its file with '
                             f'--ssl-key') from error
        raise
