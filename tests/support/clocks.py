"""A clock that tests wind."""


class Clock:
    """The times that `service.loadtest.generator` asks for: at each look it is a hundredth of a
    second later, so that a load is as long as its requests are many, however quick the machine
    is."""

    def __init__(self) -> None:
        self._looks = 0

    def perf_counter(self) -> float:
        """Seconds."""
        self._looks += 1
        return self._looks / 100

    process_time = perf_counter
