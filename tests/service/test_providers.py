"""
The table of execution providers: how each proves that it computes, and that one row is enough.
"""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from service.errors import ProviderUnusable
from service.inference.engine import Engine
from service.inference.providers import CPU, CUDA, NVIDIA_DRIVER, Provider, gist
from service.settings import Settings, load_engine, load_settings
from tests.support.engines import Counted
from tests.support.servers import serving


def test_cuda_gets_the_heuristic_search_and_the_memory_limit() -> None:
    options = CUDA.options(2**30, None)

    assert options["cudnn_conv_algo_search"] == "HEURISTIC"
    assert options["use_tf32"] == "0"
    assert options["arena_extend_strategy"] == "kSameAsRequested"
    assert options["gpu_mem_limit"] == str(2**30)
    assert not {"gpu_mem_limit", "device_id"} & CUDA.options(0, None).keys()


@pytest.mark.skipif(NVIDIA_DRIVER.exists(), reason="this machine has an NVIDIA driver")
def test_cuda_without_a_gpu_refuses_to_start_in_one_sentence(tiny_model: Path) -> None:
    with pytest.raises(ProviderUnusable, match="CUDA is not in use") as caught:
        Engine.load(tiny_model, device="cuda")

    assert "DEVICE=gpu scripts/install run" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(NVIDIA_DRIVER.exists(), reason="this machine has an NVIDIA driver")
def test_auto_without_a_gpu_computes_on_the_cpu(tiny_model: Path) -> None:
    engine = Engine.load(tiny_model, device="auto")

    assert (engine.provider, engine.device_requested) == (CPU.name, "auto")


@pytest.mark.skipif(not NVIDIA_DRIVER.exists(), reason="needs an NVIDIA GPU and its runtime")
def test_auto_is_on_cuda_or_says_why_not(tiny_model: Path) -> None:
    engine = Engine.load(tiny_model, device="auto")

    assert (engine.execution_provider == CUDA) == (engine.warning is None)


class OnCuda(Counted):
    """A session that claims to be on CUDA, and notes when its fallback was switched off."""

    provider = CUDA
    left_to_the_cpu: str | None = None  # an operator
    fallback_off_after: int | None = None  # runs

    def get_provider_graph_assignment_info(self) -> list[Any]:
        """The runtime's own record, of a session that is on the CPU, with the names exchanged."""
        parts = [part.get_nodes() for part in self.session.get_provider_graph_assignment_info()]
        return [
            SimpleNamespace(
                ep_name=CPU.name
                if nodes[0].op_type == self.left_to_the_cpu
                else self.provider.name,
                get_nodes=partial(list, nodes),
            )
            for nodes in parts
        ]

    def get_providers(self) -> list[str]:
        return [self.provider.name, CPU.name]

    def disable_fallback(self) -> None:
        self.fallback_off_after = len(self.runs)


# What onnxruntime-gpu 1.31.1 prints where there is no GPU, shortened in its middle.
NO_DEVICE = """*************** EP Error ***************
EP Error /onnxruntime_src/onnxruntime/core/providers/cuda/cuda_call.cc:154 std::conditional_t<T> \
CUDA failure 100: no CUDA-capable device is detected ; GPU=-1 ; hostname=vm ; file=cuda.cc
 when using [('CUDAExecutionProvider', {}), 'CPUExecutionProvider']
Falling back to ['CPUExecutionProvider'] and retrying.
****************************************"""


def gpu_runtime(
    monkeypatch: pytest.MonkeyPatch,
    wrap: Callable[[onnxruntime.InferenceSession], Any],
    provider: Provider = CUDA,
    asked: list[Any] | None = None,
) -> list[Any]:
    """Let the runtime look as if built with a provider, whose sessions are wrapped; all sessions
    that it creates.  `asked` gets the providers of each."""
    runtime, sessions = ModuleType("onnxruntime"), []
    vars(runtime).update(vars(onnxruntime))

    def create(path: Path, options: Any, *, providers: list[Any]) -> Any:
        if asked is not None:
            asked.append(providers)
        session = onnxruntime.InferenceSession(path, options, providers=[CPU.name])
        sessions.append(session if providers == [CPU.name] else wrap(session))
        return sessions[-1]

    vars(runtime).update(
        get_available_providers=lambda: [provider.name, CPU.name],
        preload_dlls=lambda: None,
        InferenceSession=create,
    )
    monkeypatch.setattr("service.inference.engine.load_runtime", lambda: runtime)
    return sessions


def test_cuda_is_warmed_up_and_then_checked_with_its_fallback_off(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = gpu_runtime(monkeypatch, OnCuda)

    engine = Engine.load(tiny_model, device="cuda", max_batch=3)

    (session,) = sessions
    choices = sorted(engine.model.crops.values(), reverse=True)
    assert (engine.provider, engine.fixed_size) == (CUDA.name, 3)
    assert session.fallback_off_after == 0
    assert session.runs == [*((3, views) for views in choices), (3, 10)]


def test_health_says_how_many_nodes_each_provider_computes(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shape work that the CPU does for a GPU is no fault, and is told."""
    with serving(tiny_model) as alone:
        assert alone.client.get("/health").json()["nodes"] == {}
    monkeypatch.setattr(OnCuda, "left_to_the_cpu", "Shape")
    gpu_runtime(monkeypatch, OnCuda)

    with serving(tiny_model, device="cuda") as server:
        health = server.client.get("/health").json()

    assert health["provider"] == CUDA.name
    assert health["nodes"].keys() == {CUDA.name, CPU.name}
    assert 0 < health["nodes"][CPU.name] < health["nodes"][CUDA.name]


def test_a_layer_that_the_cpu_would_compute_is_not_cuda(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OnCuda, "left_to_the_cpu", "MaxPool")
    gpu_runtime(monkeypatch, OnCuda)

    with pytest.raises(ProviderUnusable, match="the CPU would compute 1 MaxPool") as caught:
        Engine.load(tiny_model, device="cuda")
    engine = Engine.load(tiny_model, device="auto")

    assert "export the model again" in str(caught.value)
    assert (engine.provider, engine.warning) == (CPU.name, str(caught.value))


def test_arithmetic_on_shapes_may_stay_on_the_cpu(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OnCuda, "left_to_the_cpu", "Shape")
    gpu_runtime(monkeypatch, OnCuda)

    engine = Engine.load(tiny_model, device="cuda", max_batch=1)

    assert (engine.provider, engine.warning) == (CUDA.name, None)


def test_8_bit_on_cuda_is_warned_of_with_the_command_that_makes_16(
    bundled_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OnCuda, "left_to_the_cpu", "MaxPool")
    gpu_runtime(monkeypatch, OnCuda)

    engine = Engine.load(bundled_model, device="cuda", max_batch=1)

    assert engine.provider == CUDA.name
    assert f"--variant owt --weights {bundled_model} --precision fp16" in str(engine.warning)


@pytest.mark.parametrize("gpu", [0, 3])
def test_the_session_of_a_numbered_gpu_is_on_that_one_even_after_a_reload(
    gpu: int, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    gpu_runtime(monkeypatch, OnCuda, asked=asked)
    monkeypatch.setenv("ALEXNET_GPU", str(gpu))
    settings = load_settings(model=tiny_model, max_batch=1)

    load_engine(settings, load_engine(settings))

    assert [(name, options["device_id"]) for ((name, options), _) in asked] == [
        (CUDA.name, str(gpu))
    ] * 2


# What onnxruntime's CUDA provider says of a number that no GPU has, shortened in its middle.
NO_SUCH_GPU = """*************** EP Error ***************
EP Error /onnxruntime_src/onnxruntime/core/providers/cuda/cuda_execution_provider_info.cc:46 \
0 <= info.device_id && info.device_id < num_devices was false. Invalid device ID: 7, must be \
between 0 (inclusive) and 2 (exclusive).
 when using [('CUDAExecutionProvider', {'device_id': '7'}), 'CPUExecutionProvider']
****************************************"""


@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_a_number_that_no_gpu_has_never_falls_back_to_the_cpu(
    device: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fall_back(session: onnxruntime.InferenceSession) -> onnxruntime.InferenceSession:
        print(NO_SUCH_GPU)
        return session

    gpu_runtime(monkeypatch, fall_back)

    with pytest.raises(ProviderUnusable) as caught:
        Engine.load(tiny_model, device=device, gpu=7)

    message = str(caught.value)
    assert "(Invalid device ID: 7, must be between 0 (inclusive) and 2 (exclusive))" in message
    assert "choose another number with ALEXNET_GPU / --gpu" in message


def test_a_numbered_gpu_without_the_runtime_for_it_says_what_to_install(tiny_model: Path) -> None:
    if CUDA.name in onnxruntime.get_available_providers():
        pytest.skip("this runtime is built for CUDA")

    with pytest.raises(ProviderUnusable, match=r"built without it; install the extra gpu"):
        Engine.load(tiny_model, device="auto", gpu=0)


def test_what_the_runtime_prints_before_it_falls_back_becomes_one_sentence(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fall_back(session: onnxruntime.InferenceSession) -> onnxruntime.InferenceSession:
        print(NO_DEVICE)
        return session

    gpu_runtime(monkeypatch, fall_back)

    with pytest.raises(ProviderUnusable) as caught:
        Engine.load(tiny_model, device="cuda")
    engine = Engine.load(tiny_model, device="auto")

    assert "(CUDA failure 100: no CUDA-capable device is detected)" in str(caught.value)
    assert (engine.provider, engine.fixed_size) == (CPU.name, 0)
    assert engine.warning == str(caught.value)
    assert capsys.readouterr().out == ""


def test_a_fallback_without_a_word_names_the_missing_driver(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu_runtime(monkeypatch, lambda session: session)

    with pytest.raises(ProviderUnusable, match=r"no NVIDIA driver|fell back to the CPU"):
        Engine.load(tiny_model, device="cuda")


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (NO_DEVICE, "CUDA failure 100: no CUDA-capable device is detected"),
        ("Failed to load libcudnn.so.9.\nand more", "Failed to load libcudnn.so.9"),
        ("***\nEP Error: unknown\n***", "EP Error: unknown"),
        (ValueError(), "ValueError"),
    ],
)
def test_the_gist_of_a_foreign_message_fits_into_a_sentence(message: object, expected: str) -> None:
    assert gist(message) == expected


class WrongOnCuda(OnCuda):
    """A session that answers as if all were the first class."""

    def run(self, outputs: list[str], feeds: dict[str, NDArray[Any]]) -> Any:
        (probabilities,) = super().run(outputs, feeds)
        return [np.eye(1, probabilities.shape[1], dtype=np.float32).repeat(len(probabilities), 0)]


def test_a_wrong_answer_on_cuda_is_the_fault_of_cuda_and_not_of_the_file(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu_runtime(monkeypatch, WrongOnCuda)

    with pytest.raises(ProviderUnusable, match="the start-up image failed"):
        Engine.load(tiny_model, device="cuda", max_batch=1)
    engine = Engine.load(tiny_model, device="auto", max_batch=1)

    assert engine.execution_provider == CPU
    assert "the start-up image failed" in str(engine.warning)


@pytest.mark.skipif(NVIDIA_DRIVER.exists(), reason="this machine has an NVIDIA driver")
def test_a_reload_never_moves_from_cuda_to_the_cpu(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(model=tiny_model, device="auto", max_batch=1)
    with monkeypatch.context() as patched:
        gpu_runtime(patched, OnCuda)
        current = load_engine(settings)
        assert load_engine(settings, current).execution_provider == CUDA

    assert load_engine(settings).execution_provider == CPU
    with pytest.raises(ProviderUnusable, match="CUDA is not in use"):
        load_engine(settings, current)


def test_a_device_that_no_row_has_is_refused(tiny_model: Path) -> None:
    with pytest.raises(ValueError, match="'tpu' is not one of auto, cuda, cpu"):
        Engine.load(tiny_model, device="tpu")


# All that a new provider adds to `service`.
ROW = """Provider(
    name="OpenVINOExecutionProvider",
    device="openvino",
    label="OpenVINO",
    distribution="onnxruntime-openvino",
    built_for="for Intel's processors",
    extra="openvino",
    remedy="check the extra openvino",
)"""
OPENVINO: Provider = eval(ROW)


class OnOpenvino(OnCuda):
    """A session that claims to be on OpenVINO."""

    provider = OPENVINO


@pytest.fixture
def a_row_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.inference.providers.PROVIDERS", (OPENVINO, CUDA, CPU))


@pytest.mark.usefixtures("a_row_more")
@pytest.mark.parametrize("device", ["openvino", "auto"])
def test_one_more_row_is_enough_for_the_engine_and_the_page(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    gpu_runtime(monkeypatch, OnOpenvino, OPENVINO)

    engine = Engine.load(tiny_model, device=device, threads=1)

    assert (engine.provider, engine.warning) == ("OpenVINOExecutionProvider", None)
    with serving(tiny_model) as live:
        live.running.engine.execution_provider = engine.execution_provider
        assert "on OpenVINO" in live.client.get("/").text


@pytest.mark.usefixtures("a_row_more")
def test_one_more_row_is_enough_for_the_error_where_it_is_not_in_use(tiny_model: Path) -> None:
    with pytest.raises(ProviderUnusable, match=r"OpenVINO is not in use.* the extra openvino"):
        Engine.load(tiny_model, device="openvino")


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        (["serve", "--help"], "auto|openvino|cuda|cpu"),
        (["predict", "--help"], "auto|openvino|cuda|cpu"),
        (["serve", "--device", "tpu"], "input should be 'auto', 'openvino', 'cuda' or 'cpu'"),
        (["serve", "--device", "openvino"], "OpenVINO is not in use"),
        (["--version", "--json"], '"onnxruntime-openvino": null'),
    ],
)
def test_one_more_row_is_enough_for_the_settings_and_the_flags(
    arguments: list[str], output: str
) -> None:
    """In a process of its own, since both are built when they are imported."""
    program = (
        "import sys; from service.inference import providers; from service.inference.providers "
        f"import Provider\nproviders.PROVIDERS = ({ROW}, *providers.PROVIDERS)\n"
        "from service.__main__ import main; main()"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        env={"COLUMNS": "120", "ALEXNET_PORT": "0"},
    )

    assert output in done.stdout + done.stderr
