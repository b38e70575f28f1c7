"""
A client of the service: images in, predictions out, from another process or machine.

    from service.client import Client

    with Client("http://127.0.0.1:8000") as client:
        print(client.classify("cat.jpg").best.label)

It needs httpx2, pydantic and stamina, and nothing of the server.

    clients                Client and AsyncClient: what each takes and returns; they send
    core                   what both do, step by step
    requests, responses    what is sent; what its answer means
    transport              a server's address, deadlines, tries, what goes wrong on the way
    errors                 everything that can go wrong
"""

from service.client.clients import AsyncClient, Client
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
from service.client.requests import ImageInput
from service.client.responses import (
    Box,
    ClassHeatmap,
    ClassProbability,
    Health,
    Heatmap,
    Model,
    Outcome,
    Prediction,
    Queue,
    View,
)

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
