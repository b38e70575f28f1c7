"""How many cores a container leaves us, in control groups of both versions."""

from pathlib import Path

import pytest

from service.cgroups import cpu_quota


def control_groups(folder: Path, own: str | None, files: dict[str, str]) -> tuple[Path, Path]:
    """A tree of control groups and the file that names ours; None: there is no such file."""
    for name, text in files.items():
        (folder / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "groups" / name).write_text(text)
    if own is not None:
        (folder / "own").write_text(own)
    return folder / "groups", folder / "own"


V1_LINE = "4:cpu,cpuacct:/ours\n"
V2_LINE = "0::/ours/inner\n"


@pytest.mark.parametrize(
    ("own", "files"),
    [
        pytest.param("0::/\n", {"cpu.max": "50000 100000\n"}, id="version 2, the root"),
        pytest.param(V2_LINE, {"ours/inner/cpu.max": "100000 100000\n"}, id="version 2, its own"),
        pytest.param(V2_LINE, {"ours/cpu.max": "100000 100000\n"}, id="version 2, around its own"),
        pytest.param(V2_LINE, {"cpu.max": "100000 100000\n"}, id="version 2, a path from outside"),
        pytest.param(
            V2_LINE,
            {"cpu.max": "max 100000\n", "ours/cpu.max": "90000 100000\n"}
            | {"ours/inner/cpu.max": "9900000 100000\n"},
            id="version 2, the least of several",
        ),
        pytest.param(
            V1_LINE,
            {"cpu/ours/cpu.cfs_quota_us": "100000\n", "cpu/ours/cpu.cfs_period_us": "100000\n"},
            id="version 1, its own",
        ),
        pytest.param(
            "1:name=systemd:/x\n" + V1_LINE + "0::/\n",
            {"cpu/cpu.cfs_quota_us": "20000\n", "cpu/cpu.cfs_period_us": "100000\n"}
            | {"cpu/ours/cpu.cfs_quota_us": "-1\n", "cpu/ours/cpu.cfs_period_us": "100000\n"},
            id="version 1, the root; both versions mounted",
        ),
    ],
)
def test_a_containers_quota_bounds_the_cores(
    tmp_path: Path, own: str, files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(8), raising=False)

    assert cpu_quota(*control_groups(tmp_path, own, files)) == 1


def test_a_part_of_a_core_is_rounded_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(8), raising=False)

    groups = control_groups(tmp_path, V2_LINE, {"ours/cpu.max": "250000 100000\n"})

    assert cpu_quota(*groups) == 3


@pytest.mark.parametrize("text", ["max 100000\n", "100000000 100000\n", "rubbish"])
@pytest.mark.parametrize("own", [V2_LINE, None])
def test_no_quota_or_a_larger_one_leaves_all_cores(
    tmp_path: Path, text: str, own: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(8), raising=False)

    assert cpu_quota(*control_groups(tmp_path, own, {"ours/cpu.max": text})) == 8


def test_another_groups_quota_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(8), raising=False)

    groups = control_groups(tmp_path, V2_LINE, {"theirs/cpu.max": "100000 100000\n"})

    assert cpu_quota(*groups) == 8
