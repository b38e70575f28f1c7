"""
The Open Inference Protocol, version 2, over REST, as Triton's clients speak it.

    infer       POST /v2/models/{model}/infer, in these steps:
      encodings   a body as it was before gzip or deflate
      wire        a body -> the rows in it; JSON, or JSON and bytes; `tensors` has the latter
                  (`road`: rows -> probabilities, in the batches of all doors)
      answers     probabilities -> JSON, or JSON and bytes
    metadata    GET /v2 and below: the server, the models, what they have done
    models      the two models, as the protocol and Triton describe them
    schema      requests and answers, as OpenAPI does

Content types are not looked at: the stock client sends none.
"""

from service.http.routes.open_inference.infer import PATHS, router  # behind the keys
from service.http.routes.open_inference.metadata import router as about  # open to all

__all__ = ["PATHS", "about", "router"]
