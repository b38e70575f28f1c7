"""Docker's HEALTHCHECK: status 0 if the service in this container says that it is ready.

Asks on the second port where there is one: it answers even when all connections are taken.
"""

import http.client
import os
import ssl

TIMEOUT = 4.0  # seconds
ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # of all the addresses listened on, one that is here

which = "ALEXNET_ADMIN_" if os.environ.get("ALEXNET_ADMIN_PORT") else "ALEXNET_"
host = os.environ.get(f"{which}HOST", "127.0.0.1")
port = os.environ[f"{which}PORT"]
if which == "ALEXNET_":
    port = os.environ.get("AIP_HTTP_PORT") or port  # as the service itself
place = ANY.get(host, host), int(port)

connection = http.client.HTTPConnection(*place, timeout=TIMEOUT)
if os.environ.get("ALEXNET_SSL_CERTFILE"):
    # The certificate names what clients call the service, and this never leaves the container.
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connection = http.client.HTTPSConnection(*place, timeout=TIMEOUT, context=context)
connection.request("GET", "/readyz")
raise SystemExit(connection.getresponse().status != 200)
