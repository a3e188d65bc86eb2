"""The page's static files, read once from the package."""

from collections.abc import Awaitable, Callable
from importlib.resources import files

from aiohttp import web

TYPES = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
}


def load_assets() -> dict[str, tuple[bytes, str]]:
    """Return each file's content and type by its path; `/` is the page itself.

    Raises:
        FileNotFoundError: the package does not contain the page.
    """
    folder = files("router_service.front.page") / "static"
    assets = {}
    for file in folder.iterdir():
        kind = TYPES.get(file.name.rpartition(".")[2])
        if kind is not None:
            assets[f"/{file.name}"] = (file.read_bytes(), kind)
    assets["/"] = assets.pop("/index.html")
    return assets


def asset_routes() -> list[web.RouteDef]:
    """Return a route for each file."""
    return [web.get(path, _handler(content, kind)) for path, (content, kind) in load_assets().items()]


def _handler(content: bytes, kind: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def serve(_: web.Request) -> web.Response:
        return web.Response(body=content, content_type=kind, charset="utf-8")

    return serve
