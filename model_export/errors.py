"""
* ExportError             an export that cannot go on; its text says what to do
  - WeightsUnusable       the weights cannot be had, read, or do not fit the variant
  - LabelsUnusable        the labels file does not fit the network
  - VerificationFailed    the exported file does not answer as the PyTorch network does
"""


class ExportError(Exception):
    """An export that cannot go on."""


class WeightsUnusable(ExportError):
    """The weights cannot be had, cannot be read, or do not fit the variant."""


class LabelsUnusable(ExportError):
    """The labels file cannot be read or does not fit the network."""


class VerificationFailed(ExportError):
    """The exported file does not answer as the PyTorch network does."""
