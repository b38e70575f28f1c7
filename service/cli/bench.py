"""
`alexnet bench`: the command line of `service.loadtest.bench`.
"""

from pathlib import Path
from typing import Annotated, Final

import typer

from service.cli.exit_codes import Status, lesson
from service.cli.options import CROPS, QUESTION, AsJson, choices
from service.loadtest import bench as work

LESSON: Final = lesson(
    {
        "alexnet bench http://127.0.0.1:8000": "what can this server do? 8 requests at a time",
        "alexnet bench http://127.0.0.1:8000 --rate 20": "how long does one wait at 20 a second?",
        "alexnet bench http://127.0.0.1:8000 tests/pictures --seconds 3": "with your own images",
    },
    Status.USAGE,
    Status.INTERRUPTED,
    done="the server answered; how often not, the figures say",
    failed="there is no server, it is another one, or it answered nothing",
)
LOAD: Final = "How much load"


def bench(
    url: Annotated[
        str, typer.Argument(help="Where the server is: http://HOST:PORT.", metavar="URL")
    ],
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Image files, or folders of them; by default synthetic photographs.",
            metavar="IMAGE",
        ),
    ] = None,
    in_flight: Annotated[
        int,
        typer.Option(
            min=1,
            max=10_000,
            help="Requests outstanding at any time.",
            metavar="COUNT",
            rich_help_panel=LOAD,
        ),
    ] = 8,
    rate: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            max=100_000.0,
            help="Send so many requests a second at random times instead, answered or not; "
            "latency then counts from the time intended.",
            metavar="PER-SECOND",
            rich_help_panel=LOAD,
        ),
    ] = None,
    seconds: Annotated[
        float,
        typer.Option(
            min=0.1,
            max=86_400.0,
            help="How long, after the warm-up.",
            metavar="SECONDS",
            rich_help_panel=LOAD,
        ),
    ] = 10.0,
    warm_up: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=3600.0,
            help="Load before, that is not counted.",
            metavar="SECONDS",
            rich_help_panel=LOAD,
        ),
    ] = 1.0,
    timeout: Annotated[
        float,
        typer.Option(
            min=0.001,
            max=3600.0,
            help="Until a request has failed.",
            metavar="SECONDS",
            rich_help_panel=LOAD,
        ),
    ] = 30.0,
    seed: Annotated[
        int, typer.Option(help="Of the random times.", metavar="NUMBER", rich_help_panel=LOAD)
    ] = 0,
    crops: Annotated[
        str | None,
        typer.Option(
            help="A choice that the server offers; by default its own.",
            metavar="|".join(CROPS),
            autocompletion=choices(*CROPS),
            rich_help_panel=QUESTION,
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--api-key",
            envvar="ALEXNET_API_KEY",
            help="One that the server knows, if it asks for keys; rather in the environment, since "
            "every user of a machine sees flags.",
            show_envvar=True,
            metavar="KEY",
            rich_help_panel=QUESTION,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Put load on a running server, and print its rate and its latencies.

    Prints images a second, the median, 95th and 99th percentile of the latency in
    milliseconds, and what was refused or failed. Without IMAGE it sends 64 JPEGs of
    500 x 375, made on the spot: noise that decodes as photographs do.
    """
    work.bench(
        url,
        images or [],
        as_json=as_json,
        crops=crops,
        key=key,
        in_flight=in_flight,
        rate=rate,
        seconds=seconds,
        warm_up=warm_up,
        timeout=timeout,
        seed=seed,
    )
