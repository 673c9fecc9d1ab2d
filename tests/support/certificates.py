"""TLS certificates for tests, made on the spot."""
from __future__ import annotations

import datetime

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization


def make_certificates(directory):
    """Write to `directory`, a path: ca.pem and ca.key; server.pem and client.pem, each with its key;
    stranger.pem.

    All are for the host localhost; the stranger's is by another authority.  Returns `directory`.
    """
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / 'ca.pem'))
    authority.private_key_pem.write_to_path(str(directory / 'ca.key'))
    for name, issuer in [('server', authority), ('client', authority), ('stranger', trustme.CA())]:
        issued = issuer.issue_cert('localhost')
        issued.private_key_and_cert_chain_pem.write_to_path(str(directory / f'{name}.pem'))
    return directory


def revocation_list(directory, *revoked, age_days=0):
    """A list in PEM form by the authority of `make_certificates`, with certificates from the files `revoked`.

    It holds for a day from when it was made, `age_days` ago.
    """
    made = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(days=age_days, minutes=1)
    authority = x509.load_pem_x509_certificate((directory / 'ca.pem').read_bytes())
    key = serialization.load_pem_private_key((directory / 'ca.key').read_bytes(), None)
    builder = (x509.CertificateRevocationListBuilder().issuer_name(authority.subject).last_update(made)
               .next_update(made + datetime.timedelta(days=1)))
    for name in revoked:
        number = x509.load_pem_x509_certificate((directory / name).read_bytes()).serial_number
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder().serial_number(number).revocation_date(made).build())
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
