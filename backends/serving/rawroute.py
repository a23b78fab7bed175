"""A route of a FastAPI application that is served by plain ASGI, and documented like any other."""

from typing import Any

from fastapi.routing import APIRoute
from starlette.types import ASGIApp


class RawRoute(APIRoute):
    """Serves `app`, whose name and docstring go into the API's document.

    Everything that FastAPI does around a handler (parsing, injection, validation) is left out; the
    application's middleware and exception handlers stay.
    """

    def __init__(self, path: str, app: ASGIApp, **described: Any) -> None:
        def endpoint() -> None:
            """Stand in for `app` where FastAPI looks for parameters."""

        endpoint.__name__ = app.__name__
        endpoint.__doc__ = app.__doc__
        super().__init__(path, endpoint, response_model=None, **described)
        self.app = app
