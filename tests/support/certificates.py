"""TLS certificates for tests, made on the spot."""
from __future__ import annotations

import trustme


def make_certificates(directory):
    """Write to `directory`, a path: ca.pem; server.pem and client.pem, each with its key; stranger.pem.

    All are for the host localhost; the stranger's is by another authority.  Returns `directory`.
    """
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / 'ca.pem'))
    for name, issuer in [('server', authority), ('client', authority), ('stranger', trustme.CA())]:
        issued = issuer.issue_cert('localhost')
        issued.private_key_and_cert_chain_pem.write_to_path(str(directory / f'{name}.pem'))
    return directory
