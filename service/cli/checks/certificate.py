"""
TLS: the certificate and its key, used once as they would be for a client.
"""

import ssl
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from service.cli.checks import Finding, failed, ok, warning
from service.settings import Settings, spelled

SOON: Final = 14  # days
RENEW: Final = "have it renewed, and send SIGHUP to a server that runs"


def certificate(its: Settings) -> Iterator[Finding]:
    """Readable, a pair, valid today, and for how long."""
    if its.ssl_certfile is None:
        return
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    names = f"{its.ssl_certfile} and {its.ssl_keyfile or 'the key in it'}"
    mend = f"check {spelled('ssl_certfile')} and {spelled('ssl_keyfile')}: PEM, and a pair"
    try:
        server.load_cert_chain(its.ssl_certfile, its.ssl_keyfile, password=_no_password)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "strerror", None) or error
        yield failed("certificate", f"{names} cannot be used ({reason})", mend)
        return
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    # Whoever signed it, it is trusted here: the question is whether it is valid today.
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(its.ssl_certfile)
    try:
        ends = _handshake(client, server)
    except ssl.SSLCertVerificationError as error:
        yield failed("certificate", f"{its.ssl_certfile}: {error.verify_message}", RENEW)
        return
    days = (ssl.cert_time_to_seconds(ends) - time.time()) / 86400
    if days < SOON:
        yield warning("certificate", f"{its.ssl_certfile} ends in {days:.0f} days, {ends}", RENEW)
    else:
        yield ok("certificate", f"{its.ssl_certfile} fits its key, and is valid until {ends}")


def _handshake(client: ssl.SSLContext, server: ssl.SSLContext) -> str:
    """The end of the certificate's validity, from a handshake in memory."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(to_client, to_server, server_side=False)
    answering = server.wrap_bio(to_server, to_client, server_side=True)
    while True:
        try:
            asking.do_handshake()
        except ssl.SSLWantReadError:
            with suppress(ssl.SSLWantReadError):
                answering.do_handshake()
        else:
            break
    return str((asking.getpeercert() or {})["notAfter"])


def _no_password() -> str:
    raise ValueError("it is encrypted, and nobody is there to give the password")
