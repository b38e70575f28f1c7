"""
The only two places that send: they carry out the steps of an operation, blocking or on asyncio.
"""

import asyncio
import time
from typing import Any, cast

import httpx2

from service.client.core import Operation, Pause, Send, T
from service.client.errors import ClientError
from service.client.retry import attempts
from service.client.transport import translated


def run(http: httpx2.Client, operation: Operation[T]) -> T:
    """The operation's result; raises `ClientError`."""
    answer = None
    try:
        while True:
            answer = _carry_out(http, operation.send(answer))
    except StopIteration as end:
        return cast(T, end.value)


def _carry_out(http: httpx2.Client, step: Send | Pause) -> Any:
    if isinstance(step, Pause):
        return time.sleep(step.seconds)
    try:
        for attempt in attempts(step.deadline, step.retries):
            with attempt, translated(step.deadline):
                with http.stream(**step.arguments()) as response:
                    body = b"".join(step.deadline.watch(response.iter_bytes()))
                return step.read(response, body)
    except ClientError as error:
        return error


async def run_on_asyncio(http: httpx2.AsyncClient, operation: Operation[T]) -> T:
    """As `run`."""
    answer = None
    try:
        while True:
            answer = await _carry_out_on_asyncio(http, operation.send(answer))
    except StopIteration as end:
        return cast(T, end.value)


async def _carry_out_on_asyncio(http: httpx2.AsyncClient, step: Send | Pause) -> Any:
    if isinstance(step, Pause):
        return await asyncio.sleep(step.seconds)
    try:
        async for attempt in attempts(step.deadline, step.retries):
            with attempt, translated(step.deadline):
                async with asyncio.timeout(step.deadline.left()):
                    response = await http.request(**step.arguments())
                return step.read(response, response.content)
    except ClientError as error:
        return error
