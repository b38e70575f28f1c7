"""What users see is what tests/golden holds: help, API, answers, metrics, log, client."""

import json
import re
from typing import Any

import pytest

from tests.support.golden import GOLDEN, REQUESTS, documents

NAMES = sorted(str(path.relative_to(GOLDEN)) for path in GOLDEN.rglob("*.*"))
RENEW = "if that is meant: python -m tests.support.golden, and a line in CHANGELOG.md"


@pytest.fixture(scope="module")
def seen() -> dict[str, str]:
    return documents()


@pytest.mark.parametrize("name", NAMES)
def test_what_users_see_is_as_it_was(name: str, seen: dict[str, str]) -> None:
    kept, now = (GOLDEN / name).read_text("utf-8"), seen[name]

    if name.endswith(".json"):
        assert (difference(json.loads(kept), json.loads(now)) or RENEW) == RENEW
    else:
        assert now == kept, RENEW


def test_all_that_users_see_is_kept(seen: dict[str, str]) -> None:
    assert sorted(seen) == NAMES, RENEW


def test_every_endpoint_has_an_answer_that_is_kept(seen: dict[str, str]) -> None:
    asked = {(method.lower(), path.partition("?")[0]) for method, path, _ in REQUESTS.values()}

    for path, methods in json.loads(seen["openapi.json"])["paths"].items():
        one = path.replace("{model}", "alexnet")
        assert {(method, one) for method in methods} - asked <= {("get", "/metrics")}


def difference(kept: Any, now: Any, where: str = "") -> str:
    """Where two JSON values differ, by more than another processor's rounding; or nothing."""
    if isinstance(kept, dict) and isinstance(now, dict) and kept.keys() == now.keys():
        parts = [(kept[name], now[name], f"{where}.{name}") for name in kept]
    elif isinstance(kept, list) and isinstance(now, list) and len(kept) == len(now):
        pairs = zip(kept, now, strict=True)
        parts = [(old, new, f"{where}[{n}]") for n, (old, new) in enumerate(pairs)]
    else:
        return "" if alike(kept, now) else f"{where}: {kept!r} is {now!r} now; {RENEW}"
    return next(filter(None, (difference(*part) for part in parts)), "")


def alike(kept: Any, now: Any) -> bool:
    """Whether two values are equal, numbers to three digits: also `0.6012:285:Egyptian cat`."""
    if isinstance(kept, float) and isinstance(now, float):
        return now == pytest.approx(kept, abs=1e-3)
    if isinstance(kept, str) and isinstance(now, str):
        (old, *rest), (new, *others) = (
            re.split(r"(?<=^0\.\d{6})(?=:)", text) for text in (kept, now)
        )
        if rest and others:
            return rest == others and alike(float(old), float(new))
    return bool(kept == now)
