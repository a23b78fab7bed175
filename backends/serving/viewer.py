"""The page `/docs` of a FastAPI app, without anything from another host.

The viewer (swagger-ui) comes with a wheel. That wheel's own way of putting it in place replaces a
function of FastAPI for every app of the process; here its files are served alone.
"""

from importlib.resources import files
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.staticfiles import StaticFiles
from starlette.requests import Request
from starlette.responses import Response

PATH: Final = "/docs"
BEARER: Final = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key, where the server wants one: `turnout key new`.",
}


def add_docs(app: FastAPI) -> None:
    """Serve `/docs` and the viewer's files under it. Make the app with `docs_url=None`."""
    assets = str(files("fastapi_standalone_docs") / "static")

    async def docs(request: Request) -> Response:
        root = request.scope.get("root_path", "").rstrip("/")
        return get_swagger_ui_html(
            openapi_url=f"{root}/openapi.json",
            title=app.title,
            swagger_js_url=f"{root}{PATH}/swagger/swagger-ui-bundle.js",
            swagger_css_url=f"{root}{PATH}/swagger/swagger-ui.css",
            swagger_favicon_url=f"{root}{PATH}/fastapi/favicon.png",
            swagger_ui_parameters={"tryItOutEnabled": True, "persistAuthorization": False},
        )

    app.add_route(PATH, docs)
    app.mount(f"{PATH}/", StaticFiles(directory=assets))
    describe = app.openapi

    def with_keys() -> dict[str, Any]:
        """Describe the app, and how to show a key; the empty requirement says: where wanted."""
        document = describe()
        document.setdefault("components", {})["securitySchemes"] = {"key": BEARER}
        document["security"] = [{}, {"key": []}]
        return document

    app.openapi = with_keys  # type: ignore[method-assign] # FastAPI's documented way
