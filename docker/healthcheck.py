"""Docker's HEALTHCHECK: status 0 if the service in this container says that it is ready."""

import http.client
import os
import ssl

HOST, PORT, TIMEOUT = "127.0.0.1", int(os.environ["ALEXNET_PORT"]), 4.0  # seconds

connection = http.client.HTTPConnection(HOST, PORT, timeout=TIMEOUT)
if os.environ.get("ALEXNET_SSL_CERTFILE"):
    # The certificate names what clients call the service, and this never leaves the container.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connection = http.client.HTTPSConnection(HOST, PORT, timeout=TIMEOUT, context=context)
connection.request("GET", "/readyz")
raise SystemExit(connection.getresponse().status != 200)
