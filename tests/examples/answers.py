"""
What an example shows against what came out of it.

`...` stands for anything; alone on a line of text, for any number of lines.  Probabilities may
differ by 0.1 (by 10 where they are percent), since processors round differently in 8 bit; other
fractions by a tenth.  Times, dates, rates, sizes in bytes and ports may be any.  All else is
compared word for word, also versions of models: they change when the model does.
"""

from __future__ import annotations

import json
import re
from typing import Any

ANYTHING = "\N{HORIZONTAL ELLIPSIS}"

# Keys of JSON whose values are this machine's.
OWN = re.compile(
    r"(?:^|_)(?:ms|us|ns|s|seconds|time|times|timestamp|uptime|date|rate|per_second|bytes|port|pid)$"
)

_WORDS = re.compile(
    r"""(?P<any>\.\.\.|…)
    |(?P<moment>\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?Z?)?|\d\d?:\d\d(?::\d\d)?)
    |(?P<port>127\.0\.0\.1:\d+|localhost:\d+)
    |(?P<own>[\d.,]+\ ?(?:ms|us|µs|s|min|GB|GiB|MB|MiB|kB|KiB|bytes|B|images/s|/s)\b|dur=[\d.]+
      |(?:read|decode|queue|run)\ [\d.]+)
    |(?P<bar>[█▉▊▋▌▍▎▏░▒▓━╸╺]+[█▉▊▋▌▍▎▏░▒▓━╸╺ ]*)
    |(?P<number>[+-]?\d+\.\d+(?:e[+-]?\d+)?)
    |(?P<gap>[^\S\n]+)
    |(?P<word>\w+|.)""",
    re.VERBOSE,
)
_PATTERNS = {
    "any": ".*?",
    "moment": r"[\d:T.,Z -]+?",
    "port": r"(?:127\.0\.0\.1|localhost):\d+",
    "bar": "[█▉▊▋▌▍▎▏░▒▓━╸╺ ]*",
    "number": r"([+-]?\d+(?:\.\d+)?(?:e[+-]?\d+)?)",
    "gap": r"[^\S\n]+",
}


def close(shown: float, got: float, *, percent: bool = False) -> bool:
    """Whether a processor may turn the one into the other."""
    probability = abs(shown) <= 1 and not percent
    return abs(shown - got) <= (0.1 if probability else 10 if percent else abs(shown) / 10)


def text_fault(shown: str, got: str) -> str | None:
    """What is wrong with the shown text, None if nothing is."""
    lines, came = shown.strip("\n").split("\n"), got.strip("\n").split("\n")
    at = 0
    for number, line in enumerate(lines):
        if line.strip() in ("...", "…"):
            if number == len(lines) - 1:
                return None
            following = (i for i in range(at, len(came)) if line_fits(lines[number + 1], came[i]))
            at = next(following, len(came))
            continue
        if at >= len(came) or not line_fits(line, came[at]):
            return f"this is shown and did not come: {line}"
        at += 1
    return f"this came and is not shown: {came[at]}" if at < len(came) else None


def line_fits(shown: str, got: str) -> bool:
    """Whether a line, or a string, is what is shown."""
    pattern, numbers = "", []
    for found in _WORDS.finditer(shown.rstrip()):
        kind = found.lastgroup or "word"
        if kind == "own":
            pattern += re.sub(r"[\d.,]*\d[\d.,]*", "%", found[0]).replace("%", r"[\d.,]*\d")
        else:
            pattern += _PATTERNS.get(kind, re.escape(found[0]))
        if kind == "number":
            numbers.append((float(found[0]), shown[found.end() :].lstrip()[:1] == "%"))
    fit = re.fullmatch(pattern, got.rstrip())
    return fit is not None and all(
        close(number, float(came), percent=percent)
        for (number, percent), came in zip(numbers, fit.groups(), strict=True)
    )


def json_fault(shown: str, got: str) -> str | None:
    """The same of JSON: what is shown must be in the answer, which may have more keys."""
    wanted, came = documents(shown), documents(got)
    if not wanted:
        return "what is shown is not JSON"
    if len(came) < len(wanted):
        return f"{len(wanted)} answers in JSON are shown, and {len(came)} came"
    # A command before may have printed others.
    pairs = zip(wanted, came[-len(wanted) :], strict=True)
    return next((fault for want, come in pairs if (fault := _differs(want, come, "answer"))), None)


def documents(text: str) -> list[Any]:
    """All objects and lists of JSON in a text, `...` in them being `ANYTHING`."""
    text, found, at = filled_in(text), [], 0
    decoder = json.JSONDecoder()
    while start := re.search(r"[\[{]", text[at:]):
        try:
            document, at = decoder.raw_decode(text, at + start.start())
            found.append(document)
        except ValueError:
            at += start.end()
    return found


def filled_in(text: str) -> str:
    """JSON with `...` in it -> JSON: an entry of an object, else a value."""
    written, open_brackets, before = "", "", ""
    for word in re.findall(r'"(?:[^"\\\n]|\\.)*"|\.\.\.|…|\s+|.', text, re.DOTALL):
        if word in ("...", "…"):
            entry = open_brackets.endswith("{") and before in ("{", ",")
            word = f'"{ANYTHING}": "{ANYTHING}"' if entry else f'"{ANYTHING}"'
        if word in "[{":
            open_brackets += word
        elif word in "]}":
            open_brackets = open_brackets[:-1]
        before = before if word.isspace() else word
        written += word
    return written


def _differs(shown: Any, got: Any, where: str) -> str | None:
    if shown == ANYTHING:
        return None
    if isinstance(shown, dict) and isinstance(got, dict):
        for key, value in shown.items():
            if key == ANYTHING:
                continue
            if key not in got:
                return f"{where} has no {key!r}"
            if OWN.search(key) and isinstance(got[key], type(value) | float | int):
                continue
            if fault := _differs(value, got[key], f"{where}[{key!r}]"):
                return fault
        return None
    if isinstance(shown, list) and isinstance(got, list):
        if ANYTHING in shown:
            cut = shown.index(ANYTHING)
            after = len(shown) - cut - 1
            if len(got) < cut + after:
                return f"{where} has {len(got)} entries"
            shown = shown[:cut] + [ANYTHING] * (len(got) - cut - after) + shown[cut + 1 :]
        if len(shown) != len(got):
            return f"{where} has {len(got)} entries, and {len(shown)} are shown"
        entries = enumerate(zip(shown, got, strict=True))
        faults = (_differs(want, come, f"{where}[{i}]") for i, (want, come) in entries)
        return next((fault for fault in faults if fault), None)
    if isinstance(shown, str) and isinstance(got, str):
        fits = line_fits(shown.replace("\n", "\\n"), got.replace("\n", "\\n"))
    elif isinstance(shown, float) and isinstance(got, float | int):
        fits = close(shown, got)
    else:
        fits = type(shown) is type(got) and shown == got
    return None if fits else f"{where} is {got!r}, and {shown!r} is shown"
