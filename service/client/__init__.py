"""
A client of the service: images in, predictions out, from another process or machine.

    from service.client import Client

    with Client("http://127.0.0.1:8000") as client:
        print(client.classify("cat.jpg").best.label)

It needs httpx2, pydantic and stamina, and nothing of the server.

    sync_client, async_client   Client and AsyncClient: what each takes and returns
    core                        what both do, step by step
    sending                     the only two places that send
    requests, responses         what is sent; what its answer means
    inputs, response_types      what goes in, what comes out
    transport                   a server's address, and what goes wrong on the way to it
    retry                       deadlines, tries and the pauses between them
    errors                      everything that can go wrong
"""

from service.client.async_client import AsyncClient
from service.client.errors import (
    AnswerUnreadable,
    CertificateRefused,
    ClientError,
    ConnectionFailed,
    DeadlineExceeded,
    FileUnreadable,
    ImageRefused,
    NotReady,
    Overloaded,
    RateLimited,
    Refused,
    RequestRefused,
    ServerFailed,
    TimedOut,
    Unauthorized,
    Unavailable,
)
from service.client.inputs import ImageInput
from service.client.response_types import (
    Box,
    ClassHeatmap,
    ClassProbability,
    Health,
    Heatmap,
    Model,
    Prediction,
    Queue,
    View,
)
from service.client.responses import Outcome
from service.client.sync_client import Client

__all__ = [
    "AnswerUnreadable",
    "AsyncClient",
    "Box",
    "CertificateRefused",
    "ClassHeatmap",
    "ClassProbability",
    "Client",
    "ClientError",
    "ConnectionFailed",
    "DeadlineExceeded",
    "FileUnreadable",
    "Health",
    "Heatmap",
    "ImageInput",
    "ImageRefused",
    "Model",
    "NotReady",
    "Outcome",
    "Overloaded",
    "Prediction",
    "Queue",
    "RateLimited",
    "Refused",
    "RequestRefused",
    "ServerFailed",
    "TimedOut",
    "Unauthorized",
    "Unavailable",
    "View",
]
