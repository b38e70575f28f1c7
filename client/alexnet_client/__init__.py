"""
A Python client of the service.  Images in, predictions out, from another process or machine.

    from alexnet_client import Client

    with Client("http://127.0.0.1:8000") as client:
        print(client.classify("cat.jpg").best.label)

It needs httpx2 and stamina, and nothing of the server.

    clients                Client and AsyncClient: what each takes and returns; they send
    core                   what both do, step by step
    images                 images as callers have them, files and addresses, to bytes
    requests, responses    what is sent; what its answer means
    transport              a server's address, deadlines, tries, what goes wrong on the way
    errors                 everything that can go wrong
"""

from alexnet_client.clients import AsyncClient, Client
from alexnet_client.errors import (
    AnswerUnreadable,
    CertificateRefused,
    ClientError,
    ConnectionFailed,
    DeadlineExceeded,
    DownloadFailed,
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
from alexnet_client.images import ImageInput
from alexnet_client.responses import (
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
from alexnet_client.version import __version__

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
    "DownloadFailed",
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
    "__version__",
]
