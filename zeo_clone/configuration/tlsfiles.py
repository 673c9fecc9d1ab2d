"""TLS contexts from files: own certificate, whom to trust, what was revoked.

In: paths.  Out: an ``ssl.SSLContext`` for one side of connections, made from what is in the files now.
Runs in the thread that loads a configuration and, when the files have changed, in the one that accepts or
connects.  It refuses to know where the paths come from and how long a context is used; that is the
business of ``loop/certificates.py``.

What cannot be used raises ``ValueError``.
"""
from __future__ import annotations

import contextlib
import datetime
import os
import re
import ssl
from collections.abc import Callable
from typing import NamedTuple

CERTIFICATE_SUFFIXES = ('.pem', '.crt')
REVOCATION_SUFFIXES = ('.pem', '.crl')
PEM_CERTIFICATE = re.compile(r'-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----', re.DOTALL)


class TLSFiles(NamedTuple):
    """The files of one side.  Both sides always verify each other."""

    server_side: bool
    certificate: str | None = None
    key: str | None = None
    password_function: Callable[[], str] | None = None
    authenticate: str | None = None  # a file or directory
    crl: str | None = None  # a file or directory
    check_hostname: bool = True

    @property
    def paths(self) -> tuple[str, ...]:
        """Everything that is read."""
        return tuple(path for path in (self.certificate, self.key, self.authenticate, self.crl) if path)

    def expires(self) -> float | None:
        """When the own certificate, or its chain, ends, in seconds since the epoch; None: unknown."""
        if not self.certificate:
            return None
        with open(self.certificate, encoding='latin-1') as file:
            found = PEM_CERTIFICATE.findall(file.read())
        with contextlib.suppress(ValueError, IndexError):  # OpenSSL takes it, but it is not what we know
            return min(map(end_of, map(ssl.PEM_cert_to_DER_cert, found)), default=None)
        return None

    def context(self) -> ssl.SSLContext:
        """A context of what is in the files now.  Raises ``ValueError``."""
        if self.server_side:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.verify_mode = ssl.CERT_REQUIRED
        else:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = self.check_hostname
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # A certificate that is named is trusted itself, without the authority that issued it.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        try:
            self._load(context)
        except OSError as error:
            if self.certificate and not self.key and not holds_key(self.certificate):
                raise ValueError(f'{self.certificate} holds no private key: name its file as '
                                 "'key'") from error
            raise ValueError(f'cannot use the TLS files: certificate {self.certificate}, key {self.key}, '
                             f'authenticate {self.authenticate}, crl {self.crl}: {error}') from error
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        if self.certificate:
            # Never let OpenSSL ask at the terminal: a server has none.
            context.load_cert_chain(self.certificate, self.key, self.password_function or _no_password)
        if self.authenticate:
            _trust(context, self.authenticate)
        else:
            context.load_default_certs(
                ssl.Purpose.CLIENT_AUTH if self.server_side else ssl.Purpose.SERVER_AUTH)
        if self.crl:
            _revoke_all(context, self.crl)
            # The whole chain: an authority below the top can be revoked, too.
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN


def holds_key(path: str) -> bool:
    """Is there a private key in a PEM file?  Perhaps, if it cannot be read."""
    try:
        with open(path, encoding='latin-1') as file:
            return ' PRIVATE KEY-----' in file.read()
    except OSError:
        return True


def end_of(certificate: bytes) -> float:
    """When an X.509 certificate in DER ends, in seconds since the epoch.

    Certificate and, in it, what is signed begin with [version], serial number, algorithm, issuer, validity:
    from, until.
    """
    _, at, _ = _element(certificate, _element(certificate, 0)[1])
    starts: list[int] = []
    while len(starts) < 4:
        tag, start, after = _element(certificate, at)
        if tag != 0xa0:  # the version, which need not be there
            starts.append(start)
        at = after
    tag, start, after = _element(certificate, _element(certificate, starts[3])[2])
    text = certificate[start:after].decode('ascii')
    if tag == 0x17:  # UTCTime: a year of two digits
        text = ('19' if text[0] >= '5' else '20') + text
    time = datetime.datetime.strptime(text, '%Y%m%d%H%M%SZ')
    return time.replace(tzinfo=datetime.timezone.utc).timestamp()


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """The tag of the element at a position, where its content begins, and where the next one is."""
    length, start = der[at + 1], at + 2
    if length & 0x80:
        start += length & 0x7f
        length = int.from_bytes(der[at + 2:start], 'big')
    return der[at], start, start + length


def _no_password() -> str:
    raise ValueError('the private key has a password; name a password-function that returns it')


def _trust(context: ssl.SSLContext, path: str) -> None:
    hashed = os.path.isdir(path) and any(name.endswith('.0') for name in os.listdir(path))
    if hashed:
        context.load_verify_locations(capath=path)  # read when a peer comes
    names = [name for name in _files(path, CERTIFICATE_SUFFIXES) if name == path or not _is_key(name)]
    if not names and not hashed:
        raise ValueError(f'the directory {path} holds no certificates: no .pem or .crt file, and none with a '
                         'hashed name')
    for name in names:
        context.load_verify_locations(cafile=name)


def _is_key(path: str) -> bool:
    """Whether a PEM file holds a private key and no certificate, as may lie beside those that do."""
    with open(path, 'rb') as file:
        text = file.read()
    return b' PRIVATE KEY-----' in text and b'-----BEGIN CERTIFICATE' not in text


def _revoke_all(context: ssl.SSLContext, path: str) -> None:
    names = _files(path, REVOCATION_SUFFIXES)
    if not names:
        raise ValueError(f'the directory {path} holds no revocation lists: no .pem or .crl file')
    for name in names:
        _revoke(context, name)


def _revoke(context: ssl.SSLContext, path: str) -> None:
    before = context.cert_store_stats()
    context.load_verify_locations(cafile=path)
    after = context.cert_store_stats()
    if after['x509'] != before['x509']:
        # It would be trusted from now on.
        raise ValueError(f'{path} holds certificates; only revocation lists belong there')
    if after['crl'] == before['crl']:
        raise ValueError(f'{path} holds no revocation list that was not read before')


def _files(path: str, suffixes: tuple[str, ...]) -> list[str]:
    """`path`, or, if it is a directory, the files in it with `suffixes`."""
    if not os.path.isdir(path):
        return [path]
    return [os.path.join(path, name) for name in sorted(os.listdir(path)) if name.endswith(suffixes)]
