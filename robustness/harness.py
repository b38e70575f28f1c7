"""
What the fuzzers share: seeds, the run, the replay.  The replay looks for memory that never returns.

    python -m robustness.fuzz_image CORPUS [libFuzzer's options, such as -runs=1000]
    python -m robustness.fuzz_image CORPUS --replay

CORPUS is a folder; what the fuzzer finds interesting is kept there, what breaks the rules in its
sibling `CORPUS.broken`.  The replay runs the whole corpus several times in a fresh process, and
fails where the second half of the passes still grows the memory.
"""

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import atheris

MOST_SECONDS = 2.0  # CPU time of one input: the promised 2 s, and the fuzzer's own part of them
PASSES = 6
MOST_GROWTH = 8  # MiB, from the middle of the passes to their end


class RuleBroken(Exception):
    """An input took too long, or an answer is not what it must be."""


def resident() -> float:
    """MiB of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def timed(rule: Callable[[bytes], None]) -> Callable[[bytes], None]:
    """The rule, and that it takes no longer than it may; says so when one is the slowest."""
    slowest = 0.1

    def test(data: bytes) -> None:
        nonlocal slowest
        began = time.thread_time()
        rule(data)
        took = time.thread_time() - began
        if took > slowest:
            slowest = took
            print(f"slowest so far: {took:.3f} s of CPU time for {len(data)} bytes", flush=True)
        if took > MOST_SECONDS:
            raise RuleBroken(f"{took:.2f} s of CPU time for one input")

    return test


def replay(corpus: Path, test: Callable[[bytes], None]) -> None:
    """Run every file of the corpus `PASSES` times; exit with 1 where the memory still grows."""
    files = sorted(corpus.iterdir())
    sizes = []
    for _ in range(PASSES):
        for file in files:
            test(file.read_bytes())
        sizes.append(resident())
    print(f"{len(files)} files, {PASSES} passes, MiB after each:", *(f"{mib:.1f}" for mib in sizes))
    grown = sizes[-1] - sizes[PASSES // 2 - 1]
    if grown > MOST_GROWTH:
        raise SystemExit(f"the memory grew by {grown:.1f} MiB while nothing new came")


def main(
    rule: Callable[[bytes], None],
    seeds: Mapping[str, bytes],
    mutate: Callable[[bytes, int, int], bytes] | None = None,
) -> None:
    """Fuzz the rule, or replay what was found; `mutate` is as atheris wants a custom mutator."""
    corpus = Path(sys.argv[1])
    corpus.mkdir(parents=True, exist_ok=True)
    for name, seed in seeds.items():
        (corpus / f"seed-{name}").write_bytes(seed)
    test = timed(rule)
    if "--replay" in sys.argv:
        replay(corpus, test)
        return
    broken = corpus.with_name(f"{corpus.name}.broken")
    broken.mkdir(exist_ok=True)
    options = [
        f"-artifact_prefix={broken}/",
        "-print_final_stats=1",
        "-timeout=20",
        "-rss_limit_mb=3000",
        *sys.argv[2:],
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], test, custom_mutator=mutate)
    atheris.Fuzz()
