"""
KServe v1, SageMaker, Vertex AI and Hugging Face.  One table, one parser.

    contracts           which platform sends what, where, and what it reads; a body to its images
    endpoints           the routes of the table, and the platforms' checks

Refusals have the service's shape, `{"error": sentence, "code": word}`, which is theirs too: KServe,
TensorFlow Serving and Hugging Face answer with `error`, and their clients show it; Vertex AI and
SageMaker have no shape, and hand on what they get.
"""

from service.http.routes.platforms.endpoints import about, check_routes, paths, router

__all__ = ["about", "check_routes", "paths", "router"]
