"""
The errors of a training, as a tree.

* TrainingError           the training cannot go on; its text says what to do
  - ImagesUnusable        the folder of images is at fault
  - RunUnusable           the run's folder cannot be used, or holds another run
  - Stopped               a signal asked to stop; the checkpoint is written
"""


class TrainingError(Exception):
    """A training that cannot go on."""


class ImagesUnusable(TrainingError):
    """The labelled images cannot be learned from."""


class RunUnusable(TrainingError):
    """The run's folder cannot be written to, or holds the run of another configuration."""


class Stopped(TrainingError):
    """A signal asked to stop; the checkpoint has been written."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal
