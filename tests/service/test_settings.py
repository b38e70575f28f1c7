"""What an operator may choose, and what is said of a choice that cannot be."""

from pathlib import Path

import pytest

from service.cli.options import unknown_settings
from service.errors import SettingsInvalid
from service.settings import PREFIX, Settings, limits, load_settings, unknown_variables


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in Settings.model_fields:
        monkeypatch.delenv(PREFIX + field.upper(), raising=False)


def test_the_defaults_serve_the_bundled_model_on_this_machine_alone() -> None:
    settings = load_settings()

    assert settings.model.parts[-3:] == ("service", "bundled", "alexnet.onnx")
    assert (settings.host, settings.port, settings.device) == ("127.0.0.1", 8000, "auto")


def test_every_setting_says_what_it_is_for() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_the_environment_sets_what_no_flag_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXNET_MAX_BATCH", "8")
    monkeypatch.setenv("ALEXNET_PORT", "9000")
    monkeypatch.setenv("ALEXNET_MODEL", "other.onnx")

    settings = load_settings(port=9001, max_batch=None)

    assert (settings.max_batch, settings.port) == (8, 9001)
    assert settings.model == Path("other.onnx")


def test_variables_that_are_no_settings_are_known() -> None:
    """A misspelt one would be without effect, and nobody would know."""
    given = ["ALEXNET_PORT", "alexnet_port", "ALEXNET_PROT", "ALEXNET_API_KEY", "HOME"]

    assert unknown_variables(dict.fromkeys(given, "1")) == ["ALEXNET_PROT"]


def test_a_setting_that_is_no_more_is_unknown_and_nothing_is_suggested() -> None:
    """What is like it by its first word alone is something else."""
    gone = {"ALEXNET_MAX_HEADERS": "64KB", "ALEXNET_MAX_ASPECT_RATIO": "100"}

    assert unknown_settings(gone) == dict.fromkeys(gone, "See alexnet serve --help.")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("port", 65536), ("port", "http"), ("device", "tpu"), ("max_batch", 0), ("threads", -1),
        ("timeout", 0), ("log_level", "loud"), ("host", ""),
        ("max_delay", float("nan")), ("formats", "jpeg,tiff"), ("formats", ""),
        ("rate_limit", "many"), ("rate_limit", "0/second"), ("docs", "elsewhere"),
        ("run_timeout", 0), ("access_log", "some"),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_named_as_the_operator_wrote_it(field: str, value: object) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        load_settings(**{field: value})

    message = str(caught.value)
    assert f"ALEXNET_{field.upper()} / --{field.replace('_', '-')} is {value!r}" in message
    assert "\n" not in message


def test_a_bad_variable_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXNET_MAX_QUEUE", "many")

    with pytest.raises(SettingsInvalid, match="ALEXNET_MAX_QUEUE / --max-queue is 'many'"):
        load_settings()


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("20MB", 20_000_000), ("256MiB", 2**28), ("1.5 GiB", 3 * 2**29), ("64kib", 2**16),
        ("4096", 4096), (4096, 4096),
    ],
)  # fmt: skip
def test_sizes_are_written_as_people_write_them(written: object, size: int) -> None:
    assert load_settings(gpu_memory_limit=written).gpu_memory_limit == size
    for field in ("max_body", "max_uploads"):
        settings = load_settings(**{"max_body": "1", "max_uploads": "8GiB", field: written})
        assert getattr(settings, field) == size


@pytest.mark.parametrize("written", ["20XB", "MB", "", "-5", "20 MB each", "nan"])
def test_what_is_no_size_is_told_what_one_is(written: str) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        load_settings(max_body=written)

    assert str(caught.value) == (
        f"ALEXNET_MAX_BODY / --max-body is {written!r}: "
        "expected a size such as 20MB, 256MiB, or a number of bytes."
    )


def test_the_number_of_a_gpu_is_refused_where_no_gpu_is_meant() -> None:
    assert [load_settings(device=word, gpu="1").gpu for word in ("auto", "cuda")] == [1, 1]
    with pytest.raises(SettingsInvalid, match=r"ALEXNET_GPU / --gpu is 1, but .* is 'cpu'; choose"):
        load_settings(device="cpu", gpu=1)


def test_a_queue_that_could_never_hold_a_full_request_is_refused() -> None:
    with pytest.raises(SettingsInvalid, match=r"ALEXNET_MAX_QUEUE.*10.*ALEXNET_MAX_FILES.*64"):
        load_settings(max_queue=10)


@pytest.mark.parametrize(
    ("less", "more"), [("max_body", "max_uploads"), ("max_pixels", "max_decoding_pixels")]
)
def test_one_that_is_allowed_fits_into_what_all_may_take(less: str, more: str) -> None:
    with pytest.raises(SettingsInvalid, match=rf"ALEXNET_{less.upper()}.*ALEXNET_{more.upper()}"):
        load_settings(**{less: 1000, more: 999})


def test_what_is_moved_to_a_second_port_needs_one() -> None:
    assert load_settings(docs="admin", admin_port=0).docs == "admin"
    with pytest.raises(SettingsInvalid, match=r"ALEXNET_METRICS.*ALEXNET_ADMIN_PORT"):
        load_settings(metrics="admin")


def test_the_two_ports_differ() -> None:
    with pytest.raises(SettingsInvalid, match=r"ALEXNET_ADMIN_PORT.* is 8000, the same"):
        load_settings(admin_port=8000)


def test_a_key_without_its_certificate_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match=r"ALEXNET_SSL_KEYFILE.*without ALEXNET_SSL_CERTFILE"):
        load_settings(ssl_keyfile=tmp_path)


def test_lists_are_written_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXNET_FORMATS", " jpeg, png ")
    monkeypatch.setenv("ALEXNET_CORS_ORIGINS", "https://a.example,https://b.example")

    settings = load_settings()

    assert settings.formats == ("jpeg", "png")
    assert settings.cors_origins == ("https://a.example", "https://b.example")


def test_colour_profiles_count_unless_they_are_switched_off() -> None:
    assert limits(load_settings()).decoding.colour_profiles
    assert not limits(load_settings(colour_profiles=False)).decoding.colour_profiles


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(SettingsInvalid, match=r"ALEXNET_THREADS.*ALEXNET_PORT"):
        load_settings(port=-1, threads=-1)
