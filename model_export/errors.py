"""
The errors of an export, as a tree.

* ExportError             the export cannot go on; its text says what to do
  - WeightsUnusable       the weights cannot be fetched or read, or do not fit the variant
  - LabelsUnusable        the labels file does not fit the network
  - NotAChain             the network cannot be taken apart, so that nothing of it can be shared
  - VerificationFailed    the exported file does not answer as the PyTorch network does
"""


class ExportError(Exception):
    """An export that cannot go on."""


class WeightsUnusable(ExportError):
    """The weights cannot be fetched or read, or do not fit the variant."""


class LabelsUnusable(ExportError):
    """The labels file cannot be read or does not fit the network."""


class NotAChain(ExportError):
    """The network cannot be taken apart into a chain of blocks; the text says where."""


class VerificationFailed(ExportError):
    """The exported file does not answer as the PyTorch network does."""
