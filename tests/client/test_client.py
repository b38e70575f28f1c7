"""The client, blocking and on asyncio, against real servers and against one that misbehaves."""

import asyncio
import inspect
import io
import math
import pickle
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from importlib.resources import files
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import stamina

import alexnet_client as package
from alexnet_client import (
    AnswerUnreadable,
    AsyncClient,
    CertificateRefused,
    Client,
    ClientError,
    ConnectionFailed,
    DownloadFailed,
    FileUnreadable,
    ImageInput,
    ImageRefused,
    NotReady,
    Outcome,
    Overloaded,
    Prediction,
    RateLimited,
    Refused,
    RequestRefused,
    ServerFailed,
    TimedOut,
    Unauthorized,
)
from alexnet_client.core import BaseClient, Pause, Send
from alexnet_client.errors import REFUSALS, STATUSES
from alexnet_client.responses import seconds_until
from service import errors as of_the_server
from service.http.middleware import errors as at_the_edge
from tests.support.images import image
from tests.support.scripted import (
    CLASSES,
    Act,
    answer,
    babbles,
    classifies,
    hangs_up,
    refuses,
    resets,
    says,
    scripted,
)
from tests.support.servers import PATIENCE, ROOT, Live, certified, serving

GUIDE = (ROOT / "docs" / "client.md").read_text("utf-8")
IMAGES = Path(__file__).parents[1] / "pictures"
CAT, ESPRESSO = IMAGES / "cat.jpg", IMAGES / "espresso.jpg"
KEY = "a-key-of-sixteen-letters"
NOTHING = "http://127.0.0.1:1"  # where nobody listens


class Either:
    """Calls a client's methods, whichever of the two it is; each call has a client of its own."""

    def __init__(self, blocking: bool) -> None:
        self.blocking = blocking

    def __call__(self, url: str, method: str, *arguments: Any, **options: Any) -> Any:
        """What the method returns, or a list of what it yields; `client` has the client's own."""
        own = options.pop("client", {})

        async def asked() -> Any:
            async with AsyncClient(url, **own) as client:
                results = getattr(client, method)(*arguments, **options)
                if isinstance(results, AsyncIterator):
                    return [each async for each in results]
                return await results

        if not self.blocking:
            return asyncio.run(asked())
        with Client(url, **own) as client:
            results = getattr(client, method)(*arguments, **options)
            return list(results) if isinstance(results, Iterator) else results

    def error(self, url: str, method: str, *arguments: Any, **options: Any) -> ClientError:
        """What the method raises."""
        with pytest.raises(ClientError) as caught:
            self(url, method, *arguments, **options)
        return caught.value


@pytest.fixture(params=[True, False], ids=["blocking", "asyncio"])
def either(request: pytest.FixtureRequest) -> Either:
    """The same test for both clients."""
    return Either(request.param)


@pytest.fixture(scope="module")
def live(tiny_model: Path) -> Iterator[Live]:
    """One server for all tests that do not harm it."""
    limits = {"max_files": 3, "max_body": 200_000, "max_pixels": 1_000_000}
    with serving(tiny_model, keep_alive=10 * PATIENCE, **limits) as server:
        yield server


@pytest.fixture(scope="module")
def locked(tiny_model: Path) -> Iterator[Live]:
    """One that asks for a key."""
    with serving(tiny_model, api_keys=KEY) as server:
        yield server


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One that nobody has signed, and its key."""
    return certified(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def encrypted(tiny_model: Path, certificate: tuple[Path, Path]) -> Iterator[Live]:
    """A server that has it."""
    with serving(tiny_model, ssl_certfile=certificate[0], ssl_keyfile=certificate[1]) as server:
        yield server


@pytest.fixture
def pauses() -> Iterator[list[float]]:
    """Seconds of each pause before another try, as they are decided."""
    seconds: list[float] = []
    stamina.instrumentation.set_on_retry_hooks([lambda details: seconds.append(details.wait_for)])
    yield seconds
    stamina.instrumentation.set_on_retry_hooks(None)


def test_an_image_is_a_path_bytes_or_a_file(live: Live, either: Either) -> None:
    """The same answer, with the name where there is one."""
    with CAT.open("rb") as file:
        predictions = [
            either(live.url, "classify", it)
            for it in (CAT, str(CAT), file, io.BytesIO(CAT.read_bytes()), CAT.read_bytes())
        ]

    assert [it.filename for it in predictions] == ["cat.jpg", "cat.jpg", "cat.jpg", None, None]
    assert len({best_of(it) for it in predictions}) == 1


def test_a_prediction_is_what_the_server_answered(live: Live, either: Either) -> None:
    """Read by the raw client, field by field."""
    query = {"top": "3", "crops": "one", "details": "views,heatmap"}
    raw = live.client.post("/v1/predict", params=query, content=CAT.read_bytes())
    body = raw.json()
    expected = body["predictions"][0]

    prediction = either(live.url, "classify", CAT, top=3, crops="one", details=("views", "heatmap"))

    assert vars_of(prediction.model) == body["model"]
    assert prediction.crops == body["crops"] == "one"
    assert vars_of(prediction.classes) == expected["classes"]
    assert vars_of(prediction.views) == expected["views"]
    assert vars_of(prediction.heatmap) == expected["heatmap"]
    assert prediction.best == prediction.classes[0]


@pytest.mark.parametrize(
    ("options", "query"),
    [
        ({"threshold": 0.2}, {"threshold": "0.2"}),
        ({"classes": [281, "n02124075"], "top": 1}, {"classes": ["281", "n02124075"], "top": "1"}),
        ({"classes": "0,1", "renormalise": True}, {"classes": "0,1", "renormalise": "true"}),
        ({"classes": [0], "threshold": 1.0}, {"classes": ["0"], "threshold": "1.0"}),
    ],
    ids=["threshold", "ids", "renormalised", "none"],
)
def test_classes_are_chosen_as_the_server_chooses_them(
    live: Live, either: Either, options: dict[str, Any], query: dict[str, Any]
) -> None:
    """One image, and each of many."""
    raw = live.client.post("/v1/predict", params=query, content=CAT.read_bytes()).json()
    expected = raw["predictions"][0]["classes"]

    prediction = either(live.url, "classify", CAT, **options)
    many = either(live.url, "classify_many", [CAT, CAT], **options)

    assert vars_of(prediction.classes) == expected
    assert [best_of(it) for it in many] == [best_of(prediction)] * 2


def test_what_is_not_asked_for_is_not_sent() -> None:
    """A server that is older than the parameters refuses their names."""
    with scripted(classifies) as server, Client(server.url) as client:
        client.classify(b"x")

    assert server.asked[0].path == "/v1/predict?top=5&crops=ten"


def test_no_class_above_the_threshold_is_an_empty_answer(live: Live, either: Either) -> None:
    prediction = either(live.url, "classify", CAT, threshold=1.0)

    assert prediction.classes == ()
    with pytest.raises(IndexError, match="threshold"):
        print(prediction.best)


def vars_of(value: Any) -> Any:
    """Frozen values -> what JSON has for them."""
    if isinstance(value, tuple):
        return [vars_of(each) for each in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: vars_of(getattr(value, name)) for name in value.__dataclass_fields__}
    return value


def test_a_prediction_knows_its_request_and_the_time_of_its_steps(
    live: Live, either: Either
) -> None:
    """X-Request-ID and Server-Timing."""
    prediction = either(live.url, "classify", CAT)
    error = either.error(live.url, "classify", b"no image")

    assert len(prediction.request_id) == 32
    assert set(prediction.timing) == {"read", "decode", "queue", "run", "total"}
    assert all(isinstance(ms, float) for ms in prediction.timing.values())
    assert error.request_id is not None
    assert len(error.request_id) == 32


@pytest.mark.parametrize(
    ("data", "options", "kind", "code", "status"),
    [
        (b"no image", {}, ImageRefused, "image_type_unsupported", 415),
        (image()[:2000], {}, ImageRefused, "image_unreadable", 422),
        (b"", {}, ImageRefused, "body_empty", 400),
        (image(), {"crops": "six"}, RequestRefused, "parameter_invalid", 422),
        (image(), {"details": "colours"}, RequestRefused, "parameter_invalid", 422),
        (bytes(20_000_000), {}, RequestRefused, "body_too_large", 413),
    ],
    ids=["text", "truncated", "empty", "crops", "details", "large"],
)
def test_a_refusal_has_the_class_and_the_words_of_the_server(
    live: Live,
    either: Either,
    data: bytes,
    options: dict[str, str],
    kind: type[Refused],
    code: str,
    status: int,
) -> None:
    """Code, status and sentence."""
    error = either.error(live.url, "classify", data, **options)

    assert type(error) is kind
    assert (error.code, error.status) == (code, status)
    assert len(str(error)) > 20


def test_a_key_opens_the_door(locked: Live, either: Either) -> None:
    """Without it everything but health is closed, and a series ends at once."""
    assert type(either.error(locked.url, "classify", CAT)) is Unauthorized
    assert type(either.error(locked.url, "classify_many", [CAT, CAT])) is Unauthorized
    assert either(locked.url, "health").ready
    assert either(locked.url, "classify", CAT, client={"api_key": KEY}).classes


def test_every_code_of_the_server_has_a_class_here() -> None:
    """What its table of statuses and the framework can answer, and nothing else."""
    codes = {kind.code for kind in at_the_edge.STATUSES}
    codes |= {code for code, _ in at_the_edge.FRAMEWORK.values()}

    assert set(REFUSALS) == codes | {at_the_edge.INTERNAL[0]}


def test_what_the_server_asks_to_repeat_is_repeated() -> None:
    """Exactly the codes that come with a time to come back, and `not_ready`."""
    later = {
        kind.code
        for kind in at_the_edge.STATUSES
        if issubclass(kind, of_the_server.ComeBackLater | of_the_server.NotReady)
    }

    assert {code for code, kind in REFUSALS.items() if kind.retried} == later
    assert {status for status, kind in STATUSES.items() if kind.retried} == {429, 502, 503}


def test_images_are_answered_in_order_each_in_its_place(live: Live, either: Either) -> None:
    """Good ones, one that is broken, one that is not there, one that is empty."""
    images = [CAT, b"no image", "nowhere.jpg", ESPRESSO, b"", CAT]

    results: list[Outcome] = either(live.url, "classify_many", images, batch=3)

    kinds = [type(outcome) for outcome in results]
    assert kinds == [
        *(Prediction, ImageRefused, FileUnreadable),
        *(Prediction, ImageRefused, Prediction),
    ]
    cat, espresso = (best_of(either(live.url, "classify", it)) for it in (CAT, ESPRESSO))
    assert [best_of(results[place]) for place in (0, 3, 5)] == [cat, espresso, cat]
    assert [getattr(it, "code", "") for it in results if isinstance(it, ClientError)] == [
        *("image_type_unsupported", "file_unreadable", "body_empty")
    ]
    assert "nowhere.jpg cannot be read" in str(results[2])


def best_of(outcome: Outcome) -> tuple[int, ...]:
    """The classes; a probability's last digits depend on who shares the batch."""
    assert isinstance(outcome, Prediction)
    return tuple(row.index for row in outcome.classes)


def test_a_form_of_bad_images_only_has_an_error_for_each(live: Live, either: Either) -> None:
    """Whose answer as a whole is the first one's alone."""
    results = either(live.url, "classify_many", [b"text", b"", image()[:2000]])

    assert [error.code for error in results] == [
        *("image_type_unsupported", "body_empty", "image_unreadable")
    ]


def test_no_images_are_no_predictions(either: Either) -> None:
    """And no request."""
    assert either(NOTHING, "classify_many", []) == []


def test_a_server_that_takes_fewer_files_is_sent_fewer(either: Either) -> None:
    """It is tried with more once, not for every batch."""

    def at_most_two(handler: Any, asked: Any) -> None:
        act = classifies if len(asked.files) <= 2 else refuses(413, "too_many_files")
        act(handler, asked)

    named = [named_bytes(f"{number}.jpg") for number in range(12)]
    with scripted(at_most_two) as server:
        results = either(server.url, "classify_many", named, batch=4, **alone(either))

    assert [it.filename for it in results] == [f"{number}.jpg" for number in range(12)]
    assert [len(asked.files) for asked in server.asked] == [4, 2, 2, 2, 2, 2, 2]


def test_what_a_proxy_finds_too_large_is_sent_in_parts(either: Either) -> None:
    """It says 413 in words of its own."""

    def at_most_one(handler: Any, asked: Any) -> None:
        if len(asked.files) <= 1:
            classifies(handler, asked)
        else:
            handler.send_error(413)

    named = [named_bytes(f"{number}.jpg") for number in range(4)]
    with scripted(at_most_one) as server:
        results = either(server.url, "classify_many", named, batch=2, **alone(either))

    assert [it.filename for it in results] == [f"{number}.jpg" for number in range(4)]
    # One alone is no form, but the body itself.
    assert [len(asked.files) or 1 for asked in server.asked] == [2, 1, 1, 1, 1]


def test_a_server_too_slow_for_many_is_asked_for_fewer(either: Either) -> None:
    """Once, not for every batch."""

    def in_time(handler: Any, asked: Any) -> None:
        act = classifies if len(asked.files) <= 1 else refuses(504, "deadline_exceeded")
        act(handler, asked)

    with scripted(in_time) as server:
        either(server.url, "classify_many", [b"x"] * 4, batch=2, **alone(either))

    assert [len(asked.files) or 1 for asked in server.asked] == [2, 1, 1, 1, 1]


def test_a_file_that_fails_while_it_is_read_is_an_error_in_its_place(
    live: Live, either: Either
) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(5, "Input/output error")

    broken, good = either(live.url, "classify_many", [Broken(), image()])

    assert (broken.code, str(broken)) == (
        *("file_unreadable", "the file cannot be read: Input/output error"),
    )
    assert isinstance(good, Prediction)


def test_an_image_is_fetched_from_its_address_by_the_client(live: Live, either: Either) -> None:
    """Without the key, which is the server's alone; redirects are followed."""
    with scripted(
        says(302, b"", Location="/images/a%20cat.jpg"), says(200, CAT.read_bytes())
    ) as site:
        url = f"{site.url}/old.jpg?size=large"
        prediction = either(live.url, "classify", url, client={"api_key": KEY})

    assert best_of(prediction) == best_of(either(live.url, "classify", CAT))
    assert prediction.filename == "old.jpg"
    assert [asked.path for asked in site.asked] == ["/old.jpg?size=large", "/images/a%20cat.jpg"]
    assert all("Authorization" not in asked.headers for asked in site.asked)
    assert site.asked[0].headers["User-Agent"].startswith("alexnet-client/")


def test_addresses_among_many_have_their_answers_in_their_places(
    live: Live, either: Either
) -> None:
    with scripted(says(200, CAT.read_bytes()), says(404)) as site:
        good, bad, path = either(
            live.url, "classify_many", [f"{site.url}/a.jpg", f"{site.url}/b.jpg", CAT]
        )

    assert best_of(good) == best_of(path)
    assert (type(bad), bad.code, bad.filename) == (DownloadFailed, "download_failed", "b.jpg")


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (says(404), "the answer is 404 Not Found; correct the address, or give the image's bytes"),
        (
            says(200, bytes(20 * 2**20 + 1)),
            "it is larger than 20 MiB; give the bytes of a smaller one",
        ),
        (says(302, b"", Location="/again"), "more than 5 redirects; correct the address"),
        (says(302, b"", Location="file:///etc/passwd"), "protocol"),
        (says(302, b"", Location="ftp://127.0.0.1/"), "protocol"),
        (hangs_up, "without sending a response; correct the address"),
    ],
    ids=["404", "large", "loop", "file", "ftp", "gone"],
)
def test_an_address_that_gives_no_image_is_told_and_nothing_is_sent(
    either: Either, act: Act, words: str
) -> None:
    """Neither a password nor a signature in it is shown."""
    with scripted(act) as site:
        secret = site.url.replace("http://", "HTTP://me:secret@") + "/a.jpg?signature=secret"
        error = either.error(NOTHING, "classify", secret)

    assert type(error) is DownloadFailed
    assert str(error).startswith(f"{site.url}/a.jpg cannot be fetched: ")
    assert words in str(error)
    assert "secret" not in str(error)


def test_a_download_has_the_time_of_a_call(either: Either) -> None:
    def waits(handler: Any, asked: Any) -> None:
        site.over.wait(PATIENCE)

    with scripted(waits) as site:
        error = either.error(NOTHING, "classify", site.url, client={"timeout": 0.3})

    assert type(error) is DownloadFailed
    assert "it did not come in time; allow more with timeout=" in str(error)


@pytest.mark.parametrize("url", ["http://", "https://a b/c.jpg", "http://h:x/c.jpg"])
def test_what_is_no_address_of_an_image_is_told(either: Either, url: str) -> None:
    assert type(either.error(NOTHING, "classify", url)) is DownloadFailed


@pytest.mark.parametrize("timeout", [0, -1, math.inf, 1e10, math.nan])
def test_a_time_that_no_clock_can_keep_is_refused(timeout: float) -> None:
    with pytest.raises(ValueError, match="timeout"):
        Client(NOTHING, timeout=timeout)


def named_bytes(name: str, data: bytes = b"x") -> io.BytesIO:
    """A file in memory that has a name."""
    file = io.BytesIO(data)
    file.name = name
    return file


def alone(either: Either) -> dict[str, int]:
    """One batch after the other, as the blocking client does anyway."""
    return {} if either.blocking else {"in_flight": 1}


def test_images_too_many_bytes_together_go_apart(either: Either) -> None:
    """16 MiB a request, and one that is larger by itself."""
    megabytes = [7, 8, 2, 17, 1]
    with scripted(classifies) as server:
        results = either(
            server.url, "classify_many", [bytes(n * 2**20) for n in megabytes], **alone(either)
        )

    assert len(results) == 5
    assert [len(request.body) // 2**20 for request in server.asked] == [15, 2, 17, 1]


def test_images_are_read_as_they_are_needed(either: Either) -> None:
    """A series without end can be left at any time."""
    taken = []

    def endless() -> Iterator[ImageInput]:
        for number in count():
            taken.append(number)
            yield b"x"

    async def first(url: str) -> None:
        async with AsyncClient(url) as client:
            series = client.classify_many(endless(), batch=2, in_flight=2)
            await anext(series)
            await series.aclose()  # type: ignore[attr-defined]
            assert len(asyncio.all_tasks()) == 1

    with scripted(classifies) as server:
        if either.blocking:
            with Client(server.url) as client:
                next(client.classify_many(endless(), batch=2))
        else:
            asyncio.run(first(server.url))

    assert len(taken) <= (3 if either.blocking else 5)


def test_batches_are_on_their_way_together_and_come_back_in_order() -> None:
    """The first is answered only once the second has come; a third waits for room."""
    second = threading.Event()
    before_the_first_answer = []

    def first_waits(handler: Any, asked: Any) -> None:
        if asked.files == ["0.jpg", "1.jpg"]:
            assert second.wait(PATIENCE)
            before_the_first_answer.append(len(server.asked))
        second.set()
        classifies(handler, asked)

    named = [named_bytes(f"{number}.jpg") for number in range(8)]
    with scripted(first_waits) as server:
        results = Either(False)(server.url, "classify_many", named, batch=2, in_flight=2)

    assert [it.filename for it in results] == [f"{number}.jpg" for number in range(8)]
    assert before_the_first_answer == [2]


def test_images_may_come_from_an_asynchronous_source(live: Live) -> None:
    """As from a queue or another service."""

    async def source() -> AsyncIterator[ImageInput]:
        for path in (CAT, ESPRESSO):
            await asyncio.sleep(0)
            yield path

    results = Either(False)(live.url, "classify_many", source())

    assert [it.filename for it in results] == ["cat.jpg", "espresso.jpg"]


@pytest.mark.parametrize("name", ['a"b.jpg', "a\r\nb.jpg", "\udcff.jpg", "cat 猫.jpg"])
def test_any_name_can_be_sent_and_comes_back(live: Live, either: Either, name: str) -> None:
    """Those that forms do not like too."""
    images = [named_bytes(name, CAT.read_bytes()), CAT]

    assert [it.filename for it in either(live.url, "classify_many", images)] == [name, "cat.jpg"]


@pytest.mark.parametrize(
    "refusal",
    [
        refuses(503, "overloaded"),
        refuses(429, "rate_limited", Retry_After="0"),
        refuses(503, "not_ready"),
        says(502, b"<h1>Bad Gateway</h1>"),
        hangs_up,
        babbles,
    ],
    ids=["overloaded", "rate", "not ready", "gateway", "hung up", "babble"],
)
def test_what_may_pass_is_tried_again_with_the_same_body(either: Either, refusal: Act) -> None:
    """Twice refused, then answered; a file is read once."""
    file = named_bytes("cat.jpg", b"once")
    with scripted(refusal, refusal, classifies) as server:
        prediction = either(server.url, "classify", file)

    assert prediction.best.label == "tabby"
    assert [request.body for request in server.asked] == [b"once"] * 3


def test_a_form_is_sent_again_whole(either: Either) -> None:
    """With all of its files."""
    with scripted(refuses(503, "overloaded"), classifies) as server:
        results = either(server.url, "classify_many", [CAT, ESPRESSO])

    assert [it.filename for it in results] == ["cat.jpg", "espresso.jpg"]
    assert [request.files for request in server.asked] == [["cat.jpg", "espresso.jpg"]] * 2


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "request_malformed"),
        (408, "body_too_slow"),
        (422, "image_unreadable"),
        (500, "internal_error"),
        (504, "deadline_exceeded"),
        (418, "a_code_of_tomorrow"),
    ],
)
def test_what_would_fail_again_is_not_tried_again(either: Either, status: int, code: str) -> None:
    """The client, the server or a proxy."""
    with scripted(refuses(status, code)) as server:
        error = either.error(server.url, "classify", b"x")

    assert (error.status, error.code) == (status, code)
    assert len(server.asked) == 1


@pytest.mark.parametrize("retries", [0, 2])
def test_it_is_tried_as_often_as_was_said(either: Either, retries: int) -> None:
    """Then the refusal is raised."""
    with scripted(refuses(503, "overloaded")) as server:
        error = either.error(server.url, "classify", b"x", client={"retries": retries})

    assert type(error) is Overloaded
    assert len(server.asked) == 1 + retries


def test_the_pause_is_what_the_server_asks_for_and_a_little_more(
    either: Either, pauses: list[float]
) -> None:
    """Never less; not the same for all."""
    with scripted(refuses(503, "overloaded", Retry_After="1"), classifies) as server:
        either(server.url, "classify", b"x")

    assert len(server.asked) == 2
    assert len(pauses) == 1
    assert 1.0 < pauses[0] < 1.25


def test_a_date_to_come_back_counts_from_the_date_of_the_answer(either: Either) -> None:
    """Here the server's clock is decades behind ours."""

    def dated(handler: Any, asked: Any) -> None:
        handler.date_time_string = lambda *_: formatdate(86_400, usegmt=True)
        back = formatdate(86_409, usegmt=True)
        refuses(503, "overloaded", Retry_After=back)(handler, asked)

    with scripted(dated) as server:
        error = either.error(server.url, "classify", b"x", client={"retries": 0})

    assert error.retry_after == 9


def test_without_a_word_from_the_server_pauses_are_short_and_grow(
    either: Either, pauses: list[float]
) -> None:
    """Random below a bound that doubles."""
    with scripted(refuses(503, "overloaded")) as server:
        either.error(server.url, "classify", b"x", client={"retries": 3})

    assert len(pauses) == 3
    assert all(0 <= pause <= 0.1 * 2**n for n, pause in enumerate(pauses))
    assert len(set(pauses)) == 3


def test_a_pause_that_is_longer_than_the_time_left_is_not_begun(
    either: Either, pauses: list[float]
) -> None:
    """The refusal is raised at once, and says when to come back."""
    with scripted(refuses(429, "rate_limited", Retry_After="61")) as server:
        error = either.error(server.url, "classify", b"x")

    assert type(error) is RateLimited
    assert error.retry_after == 61
    assert (len(server.asked), pauses) == (1, [])


@pytest.mark.parametrize(
    ("text", "date", "seconds"),
    [
        ("7", None, 7.0),
        ("Wed, 21 Oct 2026 07:28:09 GMT", "Wed, 21 Oct 2026 07:28:00 GMT", 9.0),
        ("Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 2026 07:28:09 GMT", 0.0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", None, 60.0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", "yesterday", 60.0),
        *((text, None, None) for text in (None, "", "soon", "-3", "1.5", "1e3", "9" * 400)),
    ],
)
def test_a_time_to_come_back_is_seconds_or_a_date(
    text: str | None, date: str | None, seconds: float | None
) -> None:
    """Anything else is as if nothing were said; our clock is at 40 s of 1970."""
    assert seconds_until(text, date, clock=lambda: 40.0) == seconds


def test_a_server_that_never_answers_is_not_waited_for(either: Either, pauses: list[float]) -> None:
    """The time is for the whole call; it is not tried again."""

    def waits(handler: Any, asked: Any) -> None:
        server.over.wait(PATIENCE)

    with scripted(waits) as server:
        error = either.error(server.url, "classify", b"x", client={"timeout": 0.3})

    assert type(error) is TimedOut
    assert "within 0.3 s; allow more with timeout=" in str(error)
    assert pauses == []
    assert len(server.asked) <= 1  # none if the time was over before it could be asked


def test_a_server_that_trickles_is_not_waited_for(either: Either) -> None:
    """Each byte comes in time, all of them much too late."""
    told_all = threading.Event()

    def trickles(handler: Any, asked: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "2000")
        handler.end_headers()
        for _ in range(2000):
            handler.wfile.write(b" ")
            if server.over.wait(0.03):
                return
        told_all.set()

    with scripted(trickles) as server:
        error = either.error(server.url, "classify", b"x", client={"timeout": 0.4})
        assert type(error) is TimedOut
        assert not told_all.is_set()


@pytest.mark.parametrize(
    "act",
    [
        says(200, b"<h1>It works</h1>"),
        says(200, {"hello": "world"}),
        says(200, answer(2)),
        *(
            says(200, answer() | {"predictions": [{"classes": [CLASSES[0] | {"index": index}]}]})
            for index in ("281", True, 281.5, None)
        ),
        says(200, answer() | {"predictions": [{"classes": [{"index": 281}]}]}),
        says(204),
    ],
    ids=["page", "json", "two for one", "text", "truth", "fraction", "null", "less", "nothing"],
)
def test_an_answer_that_is_not_our_servers_is_not_believed(either: Either, act: Act) -> None:
    """It says what came and from where."""
    with scripted(act) as server:
        error = either.error(server.url, "classify", b"x")

    assert type(error) is AnswerUnreadable
    assert server.url in str(error)
    assert "is it another server?" in str(error)


def test_another_servers_refusal_is_known_by_its_status(either: Either) -> None:
    """404, 403 and 500 as a page; a redirect is told, not followed with a key in hand."""
    kinds = {404: RequestRefused, 403: Unauthorized, 500: ServerFailed}
    for status, kind in kinds.items():
        with scripted(says(status, b"<h1>no</h1>")) as server:
            assert type(either.error(server.url, "classify", b"x")) is kind
    with scripted(says(301, b"", Location="https://elsewhere.example/")) as server:
        error = either.error(server.url, "classify", b"x")

    assert "is now at https://elsewhere.example/; use that address" in str(error)


def test_what_a_later_server_tells_more_is_let_be(either: Either) -> None:
    """Fields that we do not know."""
    body = answer() | {"colour": "red", "predictions": [{"classes": CLASSES, "mood": "good"}]}
    with scripted(says(200, body)) as server:
        assert either(server.url, "classify", b"x").best.index == 281


def test_where_nothing_listens_it_says_what_to_start(either: Either, pauses: list[float]) -> None:
    """After its retries: a server may be starting again."""
    error = either.error(NOTHING, "classify", b"x", client={"retries": 2})

    assert type(error) is ConnectionFailed
    assert len(pauses) == 2
    for words in (NOTHING, "refused", "alexnet serve"):
        assert words in str(error).lower()


def test_another_protocol_is_told_with_the_one_to_try(live: Live, either: Either) -> None:
    """TLS to a server without it; HTTP to one that speaks something else, or hangs up on it."""
    tls = either.error(live.url.replace("http:", "https:"), "model", client={"retries": 0})
    with scripted(babbles, resets) as server:
        other = either.error(server.url, "model", client={"retries": 0})
        reset = either.error(server.url, "model", client={"retries": 0})

    assert "does not speak TLS as this client does" in str(tls)
    assert "try http://" in str(tls)
    assert "did not answer in HTTP" in str(other)
    assert "try https://" in str(other)
    assert "was lost (Connection reset by peer); if it speaks TLS, try https://" in str(reset)


@pytest.mark.parametrize("act", [hangs_up, says(200, b"{", Content_Length="100")])
def test_a_connection_that_is_lost_is_told_with_what_happened(either: Either, act: Act) -> None:
    """Before the answer, or in the middle of it."""
    with scripted(act) as server:
        error = either.error(server.url, "model", client={"retries": 0})

    assert type(error) is ConnectionFailed
    assert "without sending" in str(error)


@pytest.mark.parametrize(
    "url", ["", "http://", "ftp://host", "http://a b", "http://h:x", "http://me:secret@h", "h?a=b"]
)
def test_what_is_no_address_is_refused_at_once(url: str) -> None:
    """A `ValueError` that shows how one looks, and no password."""
    with pytest.raises(ValueError, match="http://HOST:PORT") as caught:
        Client(url)

    assert "secret" not in str(caught.value)


def test_an_address_may_lack_its_scheme_and_have_a_path(live: Live, either: Either) -> None:
    """As people type it, and as a gateway has it."""
    assert either(live.url.removeprefix("http://"), "model").variant == "owt"
    with scripted(classifies) as server:
        either(f"{server.url}/alexnet/", "classify", b"x")

    assert server.asked[0].path.startswith("/alexnet/v1/predict?")


@pytest.mark.parametrize(
    "bad", [{"timeout": 0}, {"retries": -1}, {"api_key": "has space"}, {"api_key": "schlüssel"}]
)
def test_bad_arguments_are_named(bad: dict[str, Any]) -> None:
    """A key is not shown."""
    (name,) = bad
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match=f"^{name}") as caught:
            kind(NOTHING, **bad)
        assert "schl" not in str(caught.value)


def test_bad_arguments_of_a_series_are_raised_before_the_first_image() -> None:
    """Not when somebody begins to read it."""
    with Client(NOTHING) as client, pytest.raises(ValueError, match="batch=0"):
        client.classify_many([], batch=0)
    with pytest.raises(ValueError, match="in_flight=0"):
        AsyncClient(NOTHING).classify_many([], in_flight=0)


def test_a_file_opened_as_text_is_refused_with_the_mode(either: Either) -> None:
    """So is anything that is no image."""
    for what, words in ((io.StringIO("text"), "mode 'rb'"), (42, "not int")):
        with pytest.raises(TypeError, match=words):
            either(NOTHING, "classify", what)


def test_a_certificate_is_checked(
    encrypted: Live,
    certificate: tuple[Path, Path],
    either: Either,
    pauses: list[float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Unknown ones are refused without a retry, one's own authority is enough."""
    url = encrypted.url.replace("127.0.0.1", "localhost")
    trusted = ssl.create_default_context(cafile=certificate[0])
    trusted.verify_flags &= ~ssl.VERIFY_X509_STRICT

    error = either.error(url, "classify", CAT)
    assert type(error) is CertificateRefused
    assert pauses == []
    assert "is not trusted here" in str(error)
    assert "verify=" in str(error)
    assert either(url, "classify", CAT, client={"verify": trusted}).filename == "cat.jpg"
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    assert either(url, "model", client={"retries": 0}).variant == "owt"
    plain = either.error(url.replace("https", "http"), "classify", CAT, client={"retries": 0})
    assert "try https://" in str(plain)


def test_readiness_is_asked_once_and_waited_for_with_patience(either: Either) -> None:
    """Starting is no error, another server is."""
    starting = says(503, {"status": "starting"})
    with scripted(starting, starting, says(200, {"status": "ready"})) as server:
        assert not either(server.url, "ready")
        either(server.url, "wait_until_ready", every=0.01)
        assert either(server.url, "ready")
    with scripted(says(404, b"no")) as other:
        assert type(either.error(other.url, "ready")) is RequestRefused
        assert type(either.error(other.url, "wait_until_ready")) is RequestRefused

    assert [request.path for request in server.asked] == ["/readyz"] * 4


def test_a_server_that_does_not_become_ready_is_given_up_with_the_reason(either: Either) -> None:
    """Nobody there is not ready either."""
    assert not either(NOTHING, "ready")
    error = either.error(NOTHING, "wait_until_ready", 60, every=120)

    assert type(error) is TimedOut
    assert "was not ready within 60 s: nothing answers" in str(error)


def test_health_is_told_of_a_server_that_is_not_ready_too(live: Live, either: Either) -> None:
    """Draining is an answer; an overloaded one is tried again."""
    raw = live.client.get("/health").json()
    raw["model"].pop("accuracy")
    raw.pop("nodes")  # for operators
    draining = says(503, raw | {"status": "draining"})
    with scripted(refuses(503, "overloaded"), draining) as server:
        drained = either(server.url, "health")

    assert vars_of(either(live.url, "health")) == raw
    assert (drained.status, drained.ready) == ("draining", False)
    assert vars_of(either(live.url, "model")) == raw["model"]


def test_threads_may_share_a_client(live: Live) -> None:
    """Each has its own image's answer."""
    sizes = [(280 + 8 * number, 300) for number in range(8)]
    images = [image(size=size) for size in sizes]
    with Client(live.url) as client:
        alone = [best_of(client.classify(data)) for data in images]
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda data: best_of(client.classify(data)), images * 8))

    assert together == alone * 8
    assert len(set(alone)) > 1


def test_tasks_may_share_a_client_and_be_cancelled(live: Live) -> None:
    """One that is cancelled harms no other."""

    async def asked() -> list[Any]:
        async with AsyncClient(live.url) as client:
            tasks = [asyncio.create_task(client.classify(CAT)) for _ in range(16)]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            tasks[-1].cancel()
            return await asyncio.gather(*tasks, client.classify(CAT), return_exceptions=True)

    *results, cancelled, after = asyncio.run(asked())

    assert {best_of(it) for it in results} == {best_of(after)}
    assert isinstance(cancelled, asyncio.CancelledError | Prediction)


def test_a_task_that_waits_to_try_again_can_be_cancelled(pauses: list[float]) -> None:
    """At once, not when the pause is over."""

    async def asked(url: str) -> None:
        async with AsyncClient(url, timeout=None) as client:
            task = asyncio.create_task(client.classify(b"x"))
            while not pauses:  # noqa: ASYNC110 - it is decided where this test can set no event
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    with scripted(refuses(503, "overloaded", Retry_After="3600")) as server:
        asyncio.run(asked(server.url))


def test_requests_say_who_asks(either: Either) -> None:
    """In the server's log, and a key where there is one."""
    with scripted(classifies) as server:
        either(server.url, "classify", b"x", client={"api_key": KEY})
        either(server.url, "classify", b"x")

    first, second = (request.headers for request in server.asked)
    assert first["User-Agent"].startswith("alexnet-client/")
    assert first["Authorization"] == f"Bearer {KEY}"
    assert "Authorization" not in second


def test_no_proxy_is_asked_for_a_server_on_this_machine(
    live: Live, either: Either, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which it could not reach; for others it is."""
    with scripted(classifies) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)

        either(live.url, "classify", CAT)
        assert proxy.asked == []
        either("http://service.example", "classify", CAT)
        assert proxy.asked[0].path.startswith("http://service.example/v1/predict")


def test_predictions_and_errors_can_be_kept_and_sent_to_other_processes(
    live: Live, either: Either
) -> None:
    """Pickled, compared, hashed."""
    prediction = either(live.url, "classify", CAT, details="views")
    error = either.error(live.url, "classify", b"no image")
    again = pickle.loads(pickle.dumps(error))

    assert pickle.loads(pickle.dumps(prediction)) == prediction
    assert len({prediction, pickle.loads(pickle.dumps(prediction))}) == 1
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_a_key_is_not_shown() -> None:
    """Not by `repr`, of either."""
    for kind in (Client, AsyncClient):
        assert repr(kind(NOTHING, api_key=KEY)) == f"{kind.__name__}('{NOTHING}')"


def test_importing_the_client_loads_nothing_of_the_server_and_it_is_quiet() -> None:
    """Neither the runtime nor the framework; retries write nothing to a plain program's errors."""
    program = (
        "import sys; from alexnet_client import *\n"
        "try: Client('http://127.0.0.1:1', retries=1).classify(b'x')\n"
        "except ConnectionFailed: print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )

    assert (done.returncode, done.stderr) == (0, "")
    loaded = done.stdout.split()
    assert not {name for name in loaded if name.startswith(("service", "model_"))}
    assert not {"numpy", "PIL", "onnxruntime", "fastapi", "pydantic", "torch"} & set(loaded)


def test_the_package_is_typed_and_lists_what_is_there() -> None:
    """`py.typed`, `__all__`, and every error, which the guide has too."""
    errors = {name for name in vars(package.errors) if name in package.__all__}

    assert (files("alexnet_client") / "py.typed").is_file()
    assert all(hasattr(package, name) for name in package.__all__)
    assert errors == {kind.__name__ for kind in everything_under(ClientError)}
    assert all(f"`{name}`" in GUIDE for name in errors)


def everything_under(kind: type[Exception]) -> Iterable[type[Exception]]:
    """A class and all its descendants."""
    yield kind
    for child in kind.__subclasses__():
        yield from everything_under(child)


def test_an_operation_is_steps_that_anything_can_carry_out() -> None:
    """Requests and pauses come out, answers go in; nothing is sent and no time passes."""

    class Unconnected(BaseClient):
        _connect = dict

    operation = Unconnected(NOTHING)._wait_until_ready(None, every=3600)

    first = next(operation)
    pause = operation.send(NotReady("starting"))
    second = operation.send(None)

    assert isinstance(first, Send)
    assert first.request.path == "readyz"
    assert pause == Pause(3600)
    assert isinstance(second, Send)
    with pytest.raises(StopIteration):
        operation.send(None)


def test_the_two_clients_take_the_same_arguments() -> None:
    """Method by method, but for what only asyncio can do."""
    only = {"in_flight"}
    names = {name: "aclose" if name == "close" else name for name in vars(Client)}
    public = {name: it for name, it in names.items() if not name.startswith("_")}
    for name, other in public.items():
        blocking = inspect.signature(getattr(Client, name)).parameters
        awaiting = inspect.signature(getattr(AsyncClient, other)).parameters
        assert {key: it.default for key, it in blocking.items()} == {
            key: it.default for key, it in awaiting.items() if key not in only
        }
    assert inspect.signature(Client).parameters == inspect.signature(AsyncClient).parameters
