"""Build time: a trained AlexNet in, one ONNX file out."""

import os

# Official builds of ONNX Runtime report to their maker, unless this is set before their import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
