"""The proxies' configurations in docs/deploy.md, in front of a real server."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from tests.support.images import image
from tests.support.ports import free_port
from tests.support.servers import PATIENCE, Live, certified, serving

pytestmark = pytest.mark.external

PAGE = (Path(__file__).parents[1] / "docs" / "deploy.md").read_text("utf-8")
NAME = "alexnet.example.com"
MAX_BODY = 20 * 2**20  # bytes; ALEXNET_MAX_BODY's default, and the configurations'
NGINX_FRAME = """
daemon off;
{user}
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{site}
}}
"""
# What the page says of paths: the proxy takes its own away before it passes a request on.
NGINX_PREFIX = """    location /vision/ {
        proxy_pass http://alexnet/;
    }
    location / {"""


@pytest.fixture(scope="module")
def server(tiny_model: Path) -> Iterator[Live]:
    """As the page says that it is to be set behind a proxy."""
    with serving(tiny_model, keep_alive=75) as live:
        yield live


def shown(fence: str, begins: str) -> str:
    """The page's block of this kind that begins so."""
    blocks: list[str] = re.findall(rf"```{fence}\n(.*?)```", PAGE, re.S)
    return next(block for block in blocks if begins in block)


@contextmanager
def asked_through(command: list[str], url: str, home: Path) -> Iterator[httpx2.Client]:
    """The proxy that `command` starts, until the block ends, and a client of it."""
    homes = dict.fromkeys(("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"), str(home))
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, **homes}
    )
    try:
        with httpx2.Client(base_url=url, verify=False, trust_env=False, timeout=PATIENCE) as client:
            end = time.monotonic() + PATIENCE
            while not listens(client):
                assert process.poll() is None, process.stderr and process.stderr.read()
                assert time.monotonic() < end, "the proxy does not listen"
                time.sleep(0.02)
            yield client
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)


def listens(client: httpx2.Client) -> bool:
    try:
        client.get("/livez")
    except httpx2.TransportError:
        return False
    return True


@contextmanager
def nginx(server: Live, folder: Path, *, tls: bool = True) -> Iterator[httpx2.Client]:
    if (program := shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin")) is None:
        pytest.skip("needs nginx (Debian: apt-get install nginx)")
    certificate, key = certified(folder)
    port = free_port()
    site = shown("nginx", "upstream alexnet")
    for old, new in {
        "127.0.0.1:8000": server.url.removeprefix("http://"),
        "443 ssl http2": f"127.0.0.1:{port}{' ssl http2' * tls}",
        "/etc/ssl/alexnet.pem": str(certificate),
        "/etc/ssl/alexnet.key": str(key),
        "    location / {": NGINX_PREFIX,
    }.items():
        assert old in site
        site = site.replace(old, new, 1)
    user = "" if os.geteuid() else "user root;"  # who else could not write into the tests' folders
    written = folder / "nginx.conf"
    written.write_text(NGINX_FRAME.format(user=user, folder=folder, site=site))
    command, scheme = [program, "-c", str(written)], "https" if tls else "http"
    with asked_through(command, f"{scheme}://127.0.0.1:{port}", folder) as client:
        yield client


@contextmanager
def caddy(server: Live, folder: Path) -> Iterator[httpx2.Client]:
    if (program := shutil.which("caddy")) is None:
        pytest.skip("needs Caddy (Debian: apt-get install caddy)")
    port = free_port()
    site = shown("text", "reverse_proxy")
    # Without a name of its own there is no certificate to fetch.
    for old, new in {
        f"{NAME} {{": f"http://127.0.0.1:{port} {{",
        "127.0.0.1:8000": server.url.removeprefix("http://"),
    }.items():
        assert old in site
        site = site.replace(old, new, 1)
    written = folder / "Caddyfile"
    written.write_text("{\n\tadmin off\n}\n" + site)
    command = [program, "run", "--adapter", "caddyfile", "--config", str(written)]
    with asked_through(command, f"http://127.0.0.1:{port}", folder) as client:
        yield client


@pytest.fixture(params=[nginx, caddy])
def proxied(
    request: pytest.FixtureRequest, server: Live, tmp_path: Path
) -> Iterator[httpx2.Client]:
    with request.param(server, tmp_path) as client:
        yield client


def test_a_proxy_passes_on_what_is_for_everybody(proxied: httpx2.Client, server: Live) -> None:
    """An image, a body as large as we take, an error, the page; the log has the client."""
    headers = {"Content-Type": "image/jpeg", "X-Forwarded-For": "203.0.113.9"}

    answer = proxied.post("/v1/predict", content=image(), headers=headers)
    large = proxied.post("/v1/predict", content=bytes(MAX_BODY), headers=headers)
    page = proxied.get("/")
    metrics = proxied.get("/metrics")

    assert len(answer.json()["predictions"][0]["classes"]) == 5
    assert (large.status_code, large.json()["code"]) == (415, "image_type_unsupported")
    assert page.status_code == 200
    assert "static/page.js" in page.text
    assert metrics.status_code == 404
    lines = [line for line in server.log if "/v1/predict" in line]
    assert lines
    assert not any("203.0.113.9" in line for line in lines), "a client's own word is believed"


def test_the_page_works_below_a_path_of_the_proxys(server: Live, tmp_path: Path) -> None:
    """Its addresses are relative; in Chromium, with a sample answered."""
    from tests.support.pages import launched, opened, shows

    with nginx(server, tmp_path, tls=False) as client, launched() as browser:
        behind = replace(server, url=str(client.base_url).rstrip("/"))
        with opened(browser, behind, "/vision/") as page:
            shows(page, "Cat")


def test_docs_below_a_path_of_the_proxys_ask_the_service(server: Live, tmp_path: Path) -> None:
    """Swagger UI resolves the document's relative server; what it asks is answered."""
    from tests.support.pages import expect, launched, opened

    with nginx(server, tmp_path, tls=False) as client, launched() as browser:
        behind = replace(server, url=str(client.base_url).rstrip("/"))
        with opened(browser, behind, "/vision/docs") as page:
            page.locator("#operations-operations-livez .opblock-summary").click()
            page.get_by_role("button", name="Try it out").click()
            page.get_by_role("button", name="Execute").click()

            expect(page.locator(".request-url")).to_contain_text(f"{behind.url}/vision/livez")
            status = page.locator(".live-responses-table tbody .response-col_status")
            expect(status).to_contain_text("200")
