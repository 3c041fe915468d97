"""The certificate and the key by which a server speaks TLS."""

from __future__ import annotations

import ssl

from naru.errors import InputError
from naru.serve.settings import ServerSettings


def read_pair(settings: ServerSettings) -> tuple[bytes, bytes] | None:
    """The key and the certificate as PEM; None where there is to be no TLS. Raises InputError where
    they cannot be used."""
    certificate, key = settings.certificate, settings.key
    if certificate is None or key is None:
        return None
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
        return key.read_bytes(), certificate.read_bytes()
    except OSError as error:  # those of SSL are some, too
        raise InputError(
            f"the certificate {certificate} and the key {key} cannot be used together: {error}"
        ) from None
