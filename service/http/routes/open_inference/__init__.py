"""
The Open Inference Protocol, version 2, over REST.  Triton's clients speak it.

    infer               POST /v2/models/{model}/infer, and its answer: JSON, or JSON and bytes
    infer_request       the body to its images: JSON, or JSON and bytes
    metadata            GET /v2 and below: the server, the models, their statistics
    served_models       the two models, as the protocol and Triton describe them
    schema              requests and answers, as OpenAPI describes them

Content types are not looked at: the stock client sends none.
"""

from service.http.routes.open_inference.infer import paths, router  # behind the keys
from service.http.routes.open_inference.metadata import about, about_models, names_model  # for all

__all__ = ["about", "about_models", "names_model", "paths", "router"]
