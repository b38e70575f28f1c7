"""
Images in, labels out: AlexNet behind HTTP.  It needs one ONNX file, and no torch.

Read `inference/classifier.py` first: the whole pipeline is there.
"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("alexnet-service")
except PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0.0.0+checkout"

__all__ = ["__version__"]
