"""Who may come in, how often, by which port, from whose page; and what every answer carries."""

import hmac
import json
import re
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from service.app import create_app
from service.errors import RateLimited, SettingsInvalid, TooManyFiles
from service.http import access
from service.http.access import Keys, RateLimiter, network_of
from service.inference.engine import Engine
from service.settings import load_settings
from tests.support.commands import alexnet_process
from tests.support.images import image
from tests.support.servers import PATIENCE, ROOT, InThread, Live, serving, until

PREDICT = "/v1/predict"
JPEG = {"Content-Type": "image/jpeg"}
HEALTH = ("/health", "/livez", "/readyz")
ORIGIN = "https://example.com"

ALICE, BOB = "alice-0123456789", "bob~0123456789!/+"  # of the environment
OFTEN, MANY = "often-0123456789", "many-0123456789x"  # of it too, each for one test's images
CAROL, DAVE = "carol-0123456789", "dave-0123456789x"  # of the file
UNKNOWN = "unknown-01234567890"


def bearer(key: str) -> dict[str, str]:
    """The headers of an image with a key."""
    return JPEG | {"Authorization": f"Bearer {key}"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where keys may be written."""
    path = tmp_path / "keys"
    path.touch(0o600)
    return path


@pytest.mark.parametrize(
    "text",
    [
        f"{CAROL}\n{BOB}\n",
        f"# of the staff\n\n{CAROL}\n   # comment\n{BOB}",
        f"\ufeff{CAROL}  # until May\r\n\r\n  {BOB}\t\r\n",
    ],
    ids=["plain", "comments, no last newline", "from Windows"],
)
def test_a_file_holds_a_key_on_each_line_that_is_no_comment(file: Path, text: str) -> None:
    """However its author's editor writes."""
    file.write_bytes(text.encode())

    keys = Keys(file=file)

    assert keys
    assert keys.holds(CAROL)
    assert keys.holds(BOB)
    assert keys.holds(CAROL) != keys.holds(BOB)
    assert not keys.holds("# of the staff")
    assert not keys.holds("")


@pytest.mark.parametrize(
    "key",
    ["short-012345678", "x" * 257, "with a space in it", "with,comma,in,it", "with#sign#in#it#",
     "größe-0123456789", "with\x00nul-0123456789"],
)  # fmt: skip
def test_what_is_no_key_is_refused_by_its_line_and_never_shown(file: Path, key: str) -> None:
    """The sentence may end in a log."""
    file.write_text(f"{CAROL}\n\n{key}\n", "utf-8")

    with pytest.raises(SettingsInvalid, match="line 3") as caught:
        Keys(file=file)

    assert key not in str(caught.value)
    assert CAROL not in str(caught.value)


def test_a_key_of_the_environment_that_is_none_is_refused_by_its_place() -> None:
    """Counted from one, as people do."""
    with pytest.raises(SettingsInvalid, match="ALEXNET_API_KEYS: key 2") as caught:
        Keys([ALICE, "too-short"])

    assert "too-short" not in str(caught.value)


def test_a_file_without_a_key_does_not_open_the_door(file: Path) -> None:
    """Empty, missing, or no file at all."""
    file.write_text("# none yet\n")

    for path in (file, file.with_name("missing"), file.parent):
        with pytest.raises(SettingsInvalid, match=re.escape(str(path))):
            Keys([ALICE], path)


def test_keys_are_kept_as_digests_alone(file: Path) -> None:
    """Nothing that is printed or dumped by mistake shows one."""
    file.write_text(CAROL)

    keys = Keys([ALICE], file)

    assert ALICE not in repr(vars(keys))
    assert CAROL not in repr(vars(keys))
    assert keys.holds(ALICE) not in (ALICE, None)


def test_a_candidate_is_compared_with_every_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """In constant time, and on after the right one: the time tells nothing."""
    keys = Keys([ALICE, BOB, CAROL])
    compared: list[bytes] = []
    real = hmac.compare_digest

    def watched(left: bytes, right: bytes) -> bool:
        compared.append(left)
        return real(left, right)

    monkeypatch.setattr(hmac, "compare_digest", watched)

    for candidate in (ALICE, BOB, CAROL, UNKNOWN, "k\udc80\xff"):
        compared.clear()
        keys.holds(candidate)
        assert len(set(compared)) == 3


def test_keys_are_rotated_by_reading_the_file_again(file: Path) -> None:
    """Those of the environment stay, and a key that stays keeps its id."""
    file.write_text(CAROL)
    keys = Keys([ALICE], file)
    alice = keys.holds(ALICE)
    file.write_text(BOB)

    keys.reload()

    assert keys.holds(CAROL) is None
    assert keys.holds(BOB)
    assert keys.holds(ALICE) == alice


@pytest.mark.parametrize("text", [None, "", "# nobody\n", f"{BOB}\ntoo-short\n"])
def test_a_file_that_cannot_be_used_leaves_the_keys_as_they_were(
    file: Path, text: str | None
) -> None:
    """Neither open to all nor closed to those who are in."""
    file.write_text(CAROL)
    keys = Keys(file=file)
    if text is None:
        file.unlink()
    else:
        file.write_text(text)

    with pytest.raises(SettingsInvalid):
        keys.reload()

    assert keys.holds(CAROL)
    assert keys.holds(BOB) is None


def test_a_file_that_every_user_can_read_is_complained_of(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In the log, without its contents."""
    file.write_text(CAROL)

    Keys(file=file)
    assert caplog.text == ""
    file.chmod(0o644)
    Keys(file=file)

    assert "chmod o=" in caplog.text
    assert CAROL not in caplog.text


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Engine:
    """For applications that need no server."""
    return Engine.load(tiny_model, device="cpu", threads=1)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("api_keys", " , "),
        ("api_keys_file", "/"),
        ("cors_origins", "https://example.com/"),
        ("cors_origins", "example.com"),
        ("rate_limit", "0/minute"),
    ],
)
def test_doors_that_cannot_be_closed_as_asked_keep_the_service_from_starting(
    engine: Engine, setting: str, value: str
) -> None:
    """Rather than stand open."""
    with pytest.raises(SettingsInvalid, match=f"ALEXNET_{setting.upper()}"):
        create_app(load_settings(**{setting: value}), engine)


def test_a_service_that_cannot_start_does_not_print_its_keys(tiny_model: Path) -> None:
    """One sentence, status 1."""
    ended = alexnet_process("serve", "--port", "0", model=tiny_model, api_keys=f"{ALICE},hunter2")

    output = (ended.stdout + ended.stderr).decode()
    assert ended.returncode == 1
    assert "ALEXNET_API_KEYS: key 2" in output
    for secret in ("hunter2", ALICE, "Traceback"):
        assert secret not in output


class Clock:
    """Nanoseconds that pass when told."""

    now = 10**15

    def __call__(self) -> int:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += int(seconds * 10**9)


def refused(limiter: RateLimiter, images: int) -> int | None:
    """In how many seconds to come back; None if that many are let in."""
    try:
        limiter.charge("a", images)
    except RateLimited as error:
        return error.retry_after
    return None


def test_a_client_may_send_its_allowance_at_once_and_no_more() -> None:
    """Others are not touched by it; it grows back evenly."""
    clock = Clock()
    limiter = RateLimiter("6/minute", clock)
    for _ in range(6):
        limiter.charge("a")

    with pytest.raises(RateLimited, match="6 images per minute") as caught:
        limiter.charge("a")

    assert caught.value.retry_after == 10
    limiter.charge("b", 6)
    clock.sleep(9.9)
    with pytest.raises(RateLimited):
        limiter.charge("a")
    clock.sleep(0.1)
    limiter.charge("a")


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(1, 50),
    st.sampled_from(["second", "minute", "hour"]),
    st.lists(st.tuples(st.integers(1, 50), st.floats(0, 100)), max_size=30),
)
def test_retry_after_is_enough_and_a_second_less_is_not(
    limit: int, span: str, requests: list[tuple[int, float]]
) -> None:
    """For however many images."""
    clock = Clock()
    limiter = RateLimiter(f"{limit}/{span}", clock)
    for images, pause in requests:
        clock.sleep(pause)
        images = min(images, limit)
        wait = refused(limiter, images)
        if wait is not None:
            clock.sleep(wait - 1)
            assert wait == 1 or refused(limiter, images) == 1
            clock.sleep(1)
            limiter.charge("a", images)


def test_more_images_than_the_limit_are_told_that_waiting_does_not_help() -> None:
    """The one counted at the door does not make the rest fit."""
    limiter = RateLimiter("5/minute", Clock())
    limiter.charge("a")

    with pytest.raises(TooManyFiles, match=r"6 images at once.*5 images per minute.*fewer"):
        limiter.charge("a", 6, counted=1)

    limiter.charge("a", 5, counted=1)


def test_a_flood_of_addresses_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those whose allowance is whole are forgotten; of the others the oldest, beyond a limit."""
    monkeypatch.setattr(access, "MAX_CLIENTS", 1000)
    clock = Clock()
    limiter = RateLimiter("10/hour", clock)

    for number in range(5000):
        limiter.charge(f"first {number}")
    assert limiter.clients == 1000

    clock.sleep(3600)
    for number in range(1000):
        limiter.charge(f"second {number}")
        clock.sleep(0.001)
    assert limiter.clients <= 1001
    with pytest.raises(RateLimited):
        limiter.charge("second 999", 10)
    clock.sleep(3600)
    for number in range(600):
        limiter.charge(f"third {number}")
    assert limiter.clients == 600


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::9", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("proxied-name", "proxied-name"),
        ("x" * 30_000, "x" * 64),
    ],
)
def test_an_address_stands_for_one_customer(host: str, network: str) -> None:
    """Who has IPv6 has 2**64 addresses; who has IPv4 has one, whatever the socket calls it."""
    assert network_of(host) == network


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server's file of keys."""
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.touch(0o600)
    path.write_text(f"{CAROL}\n{DAVE}\n")
    return path


@pytest.fixture(scope="module")
def live(tiny_model: Path, keys_file: Path) -> Iterator[InThread]:
    """A server with every door closed that can be."""
    with serving(
        tiny_model,
        api_keys=f"{ALICE}, {BOB}, {OFTEN}, {MANY}",
        api_keys_file=keys_file,
        rate_limit="4/day",
        cors_origins=ORIGIN,
        docs="off",
        keep_alive=10 * PATIENCE,
        max_body=200_000,
        max_pixels=1_000_000,
    ) as server:
        yield server


@pytest.fixture(scope="module")
def open_live(tiny_model: Path) -> Iterator[InThread]:
    """A server without keys, but with a limit and a second port."""
    with serving(
        tiny_model,
        rate_limit="3/hour",
        docs="admin",
        metrics="admin",
        admin_port=0,
        keep_alive=10 * PATIENCE,
    ) as server:
        yield server


@pytest.fixture(scope="module")
def admin(open_live: InThread) -> Iterator[httpx2.Client]:
    """A client of the second port."""
    url = f"http://127.0.0.1:{open_live.app.state.service.admin_port}"
    with httpx2.Client(base_url=url, timeout=PATIENCE, trust_env=False) as client:
        yield client


@pytest.fixture(scope="module")
def unlimited(tiny_model: Path) -> Iterator[Live]:
    """A server with a key and without a limit, for those who ask much."""
    with serving(
        tiny_model,
        api_keys=ALICE,
        docs="off",
        keep_alive=10 * PATIENCE,
        max_body=200_000,
        max_pixels=1_000_000,
    ) as server:
        yield server


def check_refusal(answer: httpx2.Response, status: int, code: str) -> str:
    """Assert the one shape of errors; return the sentence."""
    body = answer.json()
    assert (answer.status_code, set(body), body["code"]) == (status, {"error", "code"}, code), body
    return str(body["error"])


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": f"Bearer {UNKNOWN}"},
        {"X-API-Key": UNKNOWN},
        {"Authorization": f"Basic {ALICE}"},
        {"Authorization": ALICE},
        {"Authorization": "Bearer"},
        {"X-API-Key": f"{ALICE},{BOB}"},
        {"X-API-Key": ""},
        {"Cookie": f"X-API-Key={ALICE}"},
    ],
    ids=str,
)
def test_without_a_key_nothing_is_classified(live: Live, headers: dict[str, str]) -> None:
    """401, and how to send one; a key in the address, which is logged, does not count."""
    answer = live.client.post(
        PREDICT, params={"key": ALICE}, content=image(), headers=JPEG | headers
    )

    text = check_refusal(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert "Authorization: Bearer KEY" in text
    assert UNKNOWN not in text


def test_a_key_is_asked_for_before_the_body_is_read(live: Live) -> None:
    """The answer comes to a client that has sent nothing but its headers."""
    place = urlsplit(live.url)
    with socket.create_connection((str(place.hostname), place.port or 0), PATIENCE) as caller:
        caller.sendall(
            f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n".encode()
        )

        assert caller.recv(12) == b"HTTP/1.1 401"


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {CAROL}"},
        {"authorization": f"bearer  {CAROL}"},
        {"X-API-Key": CAROL},
        {"Authorization": "Basic cHJveHk6eA==", "X-API-Key": CAROL},
    ],
    ids=["bearer", "in small letters", "X-API-Key", "beside a proxy's own"],
)
def test_a_key_is_taken_in_either_header(live: Live, headers: dict[str, str]) -> None:
    """A request that gets past the door is told what is wrong with its image."""
    answer = live.client.post(PREDICT, params={"top": 0}, content=image(), headers=headers)

    assert answer.status_code in (422, 429)  # the limit is on the other side of the door


@pytest.mark.parametrize("path", ["/", "/static/page.js", "/metrics", *HEALTH])
def test_what_classifies_nothing_needs_no_key_and_has_no_limit(live: Live, path: str) -> None:
    """Health checks above all."""
    for _ in range(6):
        assert live.client.get(path).status_code == 200


def test_a_client_that_sends_too_much_is_told_when_to_return(live: Live) -> None:
    """By key: another's requests are not touched."""
    answers = [live.client.post(PREDICT, content=image(), headers=bearer(OFTEN)) for _ in "12345"]

    assert [answer.status_code for answer in answers] == [200, 200, 200, 200, 429]
    text = check_refusal(answers[-1], 429, "rate_limited")
    assert "4 images per day" in text
    assert 20_000 <= int(answers[-1].headers["retry-after"]) <= 21_600  # less what they took
    files = [("file", ("a.jpg", image()))] * 4
    headers = {"X-API-Key": MANY}
    assert live.client.post(PREDICT, files=files, headers=headers).status_code == 200
    assert live.client.post(PREDICT, files=files, headers=headers).status_code == 429


def test_the_images_of_a_form_are_counted_each(open_live: Live) -> None:
    """Without keys, by address; a /64 of IPv6 is one, and the proxy beside us is believed."""
    files = [("file", (f"{number}.jpg", image())) for number in range(4)]

    def post(count: int, client: str) -> httpx2.Response:
        headers = {"X-Forwarded-For": client}
        return open_live.client.post(PREDICT, files=files[:count], headers=headers)

    assert post(2, "2001:db8::1").status_code == 200
    refused = post(2, "2001:db8::2")
    assert check_refusal(refused, 429, "rate_limited")
    assert 1100 <= int(refused.headers["retry-after"]) <= 2400
    assert post(3, "192.0.2.1").status_code == 200
    assert "4 images at once" in check_refusal(post(4, "192.0.2.2"), 413, "too_many_files")


def test_an_address_that_a_stranger_writes_is_not_believed(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or each request would come from a new client; FORWARDED_ALLOW_IPS names the proxies."""
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "10.0.0.1")  # not who asks here
    with serving(tiny_model, rate_limit="1/hour") as server:
        answers = [
            server.client.post(PREDICT, content=image(), headers={"X-Forwarded-For": written})
            for written in ("192.0.2.1", "192.0.2.2", "10.0.0.1")
        ]

    assert [answer.status_code for answer in answers] == [200, 429, 429]


def test_keys_never_reach_the_log(live: Live) -> None:
    """Nor do unknown ones."""
    for key in (ALICE, BOB, CAROL, DAVE, UNKNOWN):
        live.client.post(PREDICT, content=image(), headers=bearer(key))

    log = "".join(live.log)

    assert PREDICT in log
    for key in (BOB, CAROL, DAVE, UNKNOWN, OFTEN, MANY):
        assert key not in log
    # One test above sends it in the address, where no key belongs.
    assert ALICE not in log.replace(f"?key={ALICE}", "")


def test_keys_are_rotated_on_sighup(live: InThread, keys_file: Path) -> None:
    """While serving: the new one opens, the old one no longer does."""
    new = "erin-0123456789ab"
    assert live.client.post(PREDICT, headers=bearer(DAVE)).status_code != 401
    keys_file.write_text(f"{CAROL}\n{new}\n")
    live.reload()
    until(lambda: live.client.post(PREDICT, headers=bearer(new)).status_code != 401)

    assert live.client.post(PREDICT, headers=bearer(DAVE)).status_code == 401
    assert new not in "".join(live.log)


def test_a_page_of_an_origin_in_the_settings_may_ask(live: Live) -> None:
    """The preflight needs no key, as browsers send none with it."""
    answer = live.client.options(
        PREDICT,
        headers={
            "Origin": ORIGIN,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization, content-type, x-api-key",
        },
    )

    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("POST", PREDICT, {}, 401),
        ("POST", PREDICT, bearer(CAROL), 200),
        ("GET", "/nothing", {}, 404),
        ("GET", "/docs", {}, 404),
        ("PUT", PREDICT, {}, 405),
        ("GET", "/health", {}, 200),
    ],
)
def test_such_a_page_can_read_refusals_too(
    live: Live, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    """And when to come back; a page of another origin reads nothing."""
    answers = [
        live.client.request(method, path, content=image(), headers=headers | {"Origin": origin})
        for origin in (ORIGIN, "https://elsewhere.example")
    ]

    assert {answer.status_code for answer in answers} <= {status, 429}
    assert answers[0].headers["access-control-allow-origin"] == ORIGIN
    assert "Retry-After" in answers[0].headers["access-control-expose-headers"]
    assert "access-control-allow-origin" not in answers[1].headers


def test_the_preflight_of_another_origin_is_refused_in_the_one_shape(live: Live) -> None:
    """With the setting's name, for anyone who looks into it."""
    answer = live.client.options(
        PREDICT,
        headers={"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "POST"},
    )

    assert "ALEXNET_CORS_ORIGINS" in check_refusal(answer, 400, "request_malformed")
    assert "access-control-allow-origin" not in answer.headers


def test_no_page_of_another_origin_may_ask_by_default(open_live: Live) -> None:
    """Neither read an answer nor send a header of its own."""
    answer = open_live.client.get("/health", headers={"Origin": ORIGIN})

    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_the_second_port_is_for_no_page_at_all(engine: Engine) -> None:
    """Whatever origins the first one has."""
    app = create_app(load_settings(cors_origins="*", metrics="admin", admin_port=9000), engine)
    app.state.service.admin_port = 9000
    allowed = [
        TestClient(app, base_url=f"http://localhost:{port}").get(path, headers={"Origin": ORIGIN})
        for port, path in ((8000, "/openapi.json"), (9000, "/metrics"))
    ]

    assert [answer.status_code for answer in allowed] == [200, 200]
    assert ["access-control-allow-origin" in answer.headers for answer in allowed] == [True, False]


def check_headers(headers: Mapping[str, str]) -> None:
    """Those of every answer, whatever it is."""
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-frame-options"] == "DENY"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "frame-ancestors 'none'" in policy
    scripts = re.findall(r"script-src ([^;]*)", policy)
    assert "unsafe" not in "".join(scripts)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE", "OPTIONS"])
@pytest.mark.parametrize(
    "path", ["/", "/static/page.css", "/health", "/metrics", "/nothing", "/docs", PREDICT]
)
def test_every_answer_has_the_security_headers(live: Live, method: str, path: str) -> None:
    """200, 401, 404 and 405 alike."""
    check_headers(live.client.request(method, path).headers)


@pytest.mark.parametrize(
    ("path", "on_main", "on_admin"),
    [
        ("/docs", 404, 200),
        ("/openapi.json", 404, 200),
        ("/static-offline-docs/swagger-ui.css", 404, 200),
        ("/metrics", 404, 200),
        *((path, 200, 200) for path in HEALTH),
        ("/", 200, 404),
        ("/static/page.js", 200, 404),
        ("/nothing", 404, 404),
        ("/metrics/", 404, 404),
        ("//metrics", 404, 404),
        ("/health/metrics", 404, 404),
    ],
)
def test_each_port_has_its_own_paths(
    open_live: Live, admin: httpx2.Client, path: str, on_main: int, on_admin: int
) -> None:
    """Whatever the Host header says; HEAD where GET is."""
    for client, other, status in (
        (open_live.client, admin.base_url, on_main),
        (admin, open_live.client.base_url, on_admin),
    ):
        headers = {"Host": f"127.0.0.1:{other.port}", "X-Forwarded-Port": str(other.port)}
        answer = client.get(f"{client.base_url}".rstrip("/") + path, headers=headers)

        assert answer.status_code == status
        assert client.head(str(answer.url)).status_code == status
        check_headers(answer.headers)
        if status == 404:
            check_refusal(answer, 404, "not_found")


@pytest.mark.parametrize(
    "line", ["OPTIONS *", "GET http://elsewhere/metrics", "GET /%2e%2e/metrics"]
)
def test_an_odd_target_is_refused_like_any_other(open_live: Live, line: str) -> None:
    """Neither 500 nor a way round to what the other port has."""
    place = urlsplit(open_live.url)
    with socket.create_connection((str(place.hostname), place.port or 0), PATIENCE) as caller:
        caller.sendall(f"{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())

        assert caller.recv(12) in (b"HTTP/1.1 404", b"HTTP/1.1 400")


def test_the_second_port_classifies_nothing(admin: httpx2.Client) -> None:
    """It has no key, so it must not."""
    answer = admin.post(PREDICT, content=image(), headers=JPEG)

    check_refusal(answer, 404, "not_found")


def test_docs_that_are_off_are_nowhere(live: Live) -> None:
    """Nor does the page lead to them."""
    for path in ("/docs", "/openapi.json", "/static-offline-docs/swagger-ui-bundle.js"):
        check_refusal(live.client.get(path), 404, "not_found")
    assert 'href="docs"' not in live.client.get("/").text


def test_metrics_count_what_passes_under_few_names(open_live: Live, admin: httpx2.Client) -> None:
    """What unknown clients send gets one label between all of it."""
    for number in range(5):
        open_live.client.request("PURGE", f"/coffee/{number}")
    open_live.client.get("/static/page.js")
    open_live.client.post(PREDICT, headers=JPEG | {"X-Forwarded-For": "192.0.2.9"})

    requests = 'alexnet_http_requests_total{method="%s",route="%s",status="%s"}'
    expected = (
        requests % ("other", "other", 404) + " 5.0",
        requests % ("GET", "/static/{name:path}", 200),
        requests % ("POST", PREDICT, 400),
        "alexnet_images_pending 0.0",
        "alexnet_images_limit 256.0",
        "alexnet_requests_in_flight 0.0",
        "alexnet_ready 1.0",
        'device_requested="cpu"',
        "process_open_fds",
    )

    def counted() -> bool:
        text = admin.get("/metrics").text
        assert "coffee" not in text
        return all(line in text for line in expected)

    until(counted)  # an answer is counted just after it is sent


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/static/..%2f..%2fapp.py", 404),
        ("GET", "/static-offline-docs/..%2f..%2f..%2fetc/passwd", 404),
        ("PUT", PREDICT, 405),
        ("GET", "/health", 200),
        ("POST", PREDICT, 401),
    ],
)
def test_no_answer_tells_a_path_or_a_traceback(
    unlimited: Live, tiny_model: Path, method: str, path: str, status: int
) -> None:
    """Of our files, that is."""
    answer = unlimited.client.request(method, path)

    assert answer.status_code == status
    check_tells_nothing(json.dumps(dict(answer.headers)) + answer.text, tiny_model)


@pytest.mark.parametrize(
    ("query", "data", "kind", "status"),
    [
        ("top=x", b"", "image/jpeg", 422),
        ("crops=x", b"", "image/jpeg", 422),
        ("", b"", "image/jpeg", 400),
        ("", b"text", "image/jpeg", 415),
        ("", image()[:500], "image/jpeg", 422),
        ("", image("PNG", (1200, 1000)), "image/jpeg", 413),
        ("", bytes(300_000), "image/jpeg", 413),
        ("", b"x", "text/plain", 415),
        ("", b"x", "multipart/form-data; boundary=b", 400),
    ],
    ids=["top", "crops", "empty", "text", "cut short", "many pixels", "large", "type", "form"],
)
def test_no_refusal_of_an_image_tells_a_path_or_a_traceback(
    unlimited: Live, tiny_model: Path, query: str, data: bytes, kind: str, status: int
) -> None:
    """Nor what the libraries say that read it."""
    answer = unlimited.client.post(
        f"{PREDICT}?{query}", content=data, headers=bearer(ALICE) | {"Content-Type": kind}
    )

    assert answer.status_code == status
    check_tells_nothing(json.dumps(dict(answer.headers)) + answer.text, tiny_model)


def check_tells_nothing(text: str, model: Path) -> None:
    """Neither where we are installed nor how we are written."""
    for secret in (str(ROOT), str(model.parent), sys.prefix, "site-packages", "Traceback", ".py"):
        assert secret not in text.replace("app.py", "")


def test_a_fault_of_ours_tells_nothing_and_can_be_read_by_the_page_that_asked(
    tiny_model: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """500 has the headers of every other answer, and its details stay in the log."""
    settings = load_settings(model=tiny_model, cors_origins=ORIGIN)

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError(f"a secret in {__file__}")

    monkeypatch.setattr(engine, "outputs", broken)
    app = create_app(settings, engine)
    monkeypatch.setattr(engine, "warning", "cannot open /opt/nv/lib/libcudnn.so.9: no such file")
    with TestClient(app, raise_server_exceptions=False) as client:
        answer = client.post(PREDICT, content=image(), headers={"Origin": ORIGIN})
        health = client.get("/health").json()
        counted = client.get("/metrics").text

    assert answer.status_code == 500
    assert answer.json()["code"] == "internal_error"
    assert "secret" not in answer.text
    check_tells_nothing(answer.text, tiny_model)
    check_headers(answer.headers)
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert health["warning"] == "cannot open libcudnn.so.9: no such file"
    assert f'{{method="POST",route="{PREDICT}",status="500"}} 1.0' in counted


def test_an_address_in_a_request_is_never_fetched(unlimited: Live) -> None:
    """Not as a body, a form's field, a file, a parameter or a header."""
    key = {"X-API-Key": ALICE}
    with socket.create_server(("127.0.0.1", 0)) as trap:
        url = f"http://127.0.0.1:{trap.getsockname()[1]}/cat.jpg"
        json_body = json.dumps({"url": url, "image_url": url})
        for address in (url, f"file://{Path(__file__)}"):
            answers = [
                unlimited.client.post(PREDICT, headers=key | headers, **request)
                for headers, request in (
                    (JPEG, {"content": address}),
                    ({}, {"params": {"url": address}}),
                    ({"Referer": url}, {"content": json_body}),
                    ({}, {"data": {"url": address}}),
                    ({}, {"files": {"url": ("a", address)}}),
                    ({}, {"files": {"file": (address, image())}}),
                )
            ]
            assert [answer.status_code for answer in answers] == [415, 422, 415, 415, 415, 200]
        trap.settimeout(0.3)

        with pytest.raises(TimeoutError):
            trap.accept()
