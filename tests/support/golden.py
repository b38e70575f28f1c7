"""
What users see, kept as files in tests/golden, so that nothing of it changes unnoticed.

    python -m tests.support.golden       writes them again: the diff is what users will notice

Numbers that are measured, not decided, are replaced by "measured".
"""

import json
import shutil
from base64 import b64encode
from collections.abc import Callable, Iterator
from typing import Any, Final

from prometheus_client.parser import text_string_to_metric_families as families

import alexnet_client
from tests.support.commands import here
from tests.support.images import image
from tests.support.models import TINY
from tests.support.servers import ROOT, InThread, serving

GOLDEN = ROOT / "tests" / "golden"
MEASURED: Final = {"ns", "last_inference"}  # of the v2 statistics
JPEG = {"Content-Type": "image/jpeg"}

# One request for each endpoint of the OpenAPI document, and for what they refuse.
REQUESTS: Final[dict[str, tuple[str, str, dict[str, Any]]]] = {
    "predict": ("POST", "/v1/predict", {"content": image(), "headers": JPEG}),
    "predict-form": (
        "POST",
        "/v1/predict?crops=one&top=2",
        {"files": [("a", ("a.jpg", image())), ("b", ("b.txt", b"only text"))]},
    ),
    # Before what several cores share: the sizes of its batches are left to the moment.
    "v2-stats": ("GET", "/v2/models/alexnet/stats", {}),
    "v2-all-stats": ("GET", "/v2/models/stats", {}),
    "predict-views": (
        "POST",
        "/v1/predict?details=views&top=1",
        {"content": image(), "headers": JPEG},
    ),
    "predict-heatmap": (
        "POST",
        "/v1/predict?details=heatmap&crops=one&top=1",
        {"content": image(), "headers": JPEG},
    ),
    "predict-refused": ("POST", "/v1/predict", {"content": b"only text", "headers": JPEG}),
    "predict-parameter": ("POST", "/v1/predict?top=0", {"content": image()}),
    "predict-method": ("GET", "/v1/predict", {}),
    "torchserve": ("POST", "/predictions/alexnet", {"content": image()}),
    "torchserve-put": ("PUT", "/predictions/alexnet", {"content": image()}),
    "torchserve-ping": ("GET", "/ping", {}),
    "health": ("GET", "/health", {}),
    "livez": ("GET", "/livez", {}),
    "readyz": ("GET", "/readyz", {}),
    "v2": ("GET", "/v2", {}),
    "v2-live": ("GET", "/v2/health/live", {}),
    "v2-ready": ("GET", "/v2/health/ready", {}),
    "v2-index": ("POST", "/v2/repository/index", {}),
    "v2-model": ("GET", "/v2/models/alexnet", {}),
    "v2-model-ready": ("GET", "/v2/models/alexnet/ready", {}),
    "v2-image-model": ("GET", "/v2/models/alexnet_image", {}),
    "v2-config": ("GET", "/v2/models/alexnet/config", {}),
    "v2-image-config": ("GET", "/v2/models/alexnet_image/config", {}),
    "v2-unknown-model": ("GET", "/v2/models/resnet", {}),
    "v2-infer": (
        "POST",
        "/v2/models/alexnet/infer",
        {
            "json": {
                "inputs": [
                    {
                        "name": "images",
                        "shape": [1, 256, 256, 3],
                        "datatype": "UINT8",
                        "data": [127] * (256 * 256 * 3),
                    }
                ],
                "outputs": [{"name": "probabilities", "parameters": {"classification": 2}}],
            }
        },
    ),
    "v2-image-infer": (
        "POST",
        "/v2/models/alexnet_image/infer",
        {
            "json": {
                "inputs": [
                    {
                        "name": "image",
                        "shape": [1, 1],
                        "datatype": "BYTES",
                        "data": [b64encode(image()).decode()],
                    }
                ]
            }
        },
    ),
    "kserve-v1": (
        "POST",
        "/v1/models/alexnet:predict",
        {"json": {"instances": [{"b64": b64encode(image()).decode()}], "parameters": {"top": 2}}},
    ),
    "kserve-v1-refused": ("POST", "/v1/models/alexnet:predict", {"json": {"instances": ["?"]}}),
    "kserve-v1-model": ("GET", "/v1/models/alexnet", {}),
    "sagemaker": ("POST", "/invocations?top=2", {"content": image(), "headers": JPEG}),
    "hugging-face": (
        "POST",
        "/models/alexnet",
        {"json": {"inputs": b64encode(image()).decode(), "parameters": {"top_k": 2}}},
    ),
    "unknown-path": ("GET", "/nothing", {}),
}


def documents() -> dict[str, str]:
    """Every file of tests/golden, by its path below that folder."""
    found = {f"help/{name}.txt": text for name, text in help_pages()}
    found["client.txt"] = "".join(f"{name}\n" for name in sorted(alexnet_client.__all__))
    with serving(TINY, log_format="json", access_log="all") as server:
        found["openapi.json"] = _json(server.client.get("/openapi.json").json())
        for name, (method, path, sent) in REQUESTS.items():
            answer = server.client.request(method, path, **sent)
            told = {"status": answer.status_code, "body": _settled(answer.json())}
            found[f"answers/{name}.json"] = _json({"request": f"{method} {path}"} | told)
        found["metrics.txt"] = _metrics(server.client.get("/metrics").text)
        found["log.json"] = _json(_log_keys(server))
    return found


def write() -> None:
    """Write the files again."""
    shutil.rmtree(GOLDEN, ignore_errors=True)
    for name, text in documents().items():
        path = GOLDEN / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")


def help_pages() -> Iterator[tuple[str, str]]:
    """The help of every command, 80 columns wide."""
    for program, main, commands in _programs():
        for command in ("", *commands):
            done = here(main, program, *command.split(), "--help")
            yield "-".join([program, *command.split()]), done.stdout.decode()


def _programs() -> Iterator[tuple[str, Callable[[], None], list[str]]]:
    from model_export import __main__ as exporter
    from model_training import __main__ as trainer
    from model_training.distillation import __main__ as distiller
    from service import __main__ as alexnet

    for program, module in (("alexnet", alexnet), ("alexnet-distill", distiller)):
        callbacks = [command.callback for command in module.app.registered_commands]
        yield program, module.main, [callback.__name__ for callback in callbacks if callback]
    yield "alexnet-export", exporter.main, []
    yield "alexnet-train", trainer.main, ["plot"]


def _metrics(text: str) -> str:
    """`name type label,label` a line, in the order of their names."""
    lines = []
    for family in families(text):
        labels = {label for sample in family.samples for label in sample.labels}
        lines.append(f"{family.name} {family.type} {','.join(sorted(labels))}".strip())
    return "".join(f"{line}\n" for line in sorted(lines))


def _log_keys(server: InThread) -> dict[str, list[str]]:
    """The keys of the log's line for each of the requests above, and of one that is of none."""
    lines = [json.loads(line) for line in server.log]
    answered = [line for line in lines if "status" in line][1:]  # the first is openapi.json's
    found = {name: sorted(line) for name, line in zip(REQUESTS, answered, strict=False)}
    return {"start": sorted(lines[0]), **found}


def _settled(value: Any, key: str = "") -> Any:
    """A JSON value without what is measured, numbers to four digits."""
    if key in MEASURED:
        return "measured"
    if isinstance(value, dict):
        return {name: _settled(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [_settled(inner) for inner in value]
    return round(value, 4) if isinstance(value, float) else value


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    write()
