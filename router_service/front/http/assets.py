"""The page's static files, read once from the package."""

from collections.abc import Awaitable, Callable, Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable

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
    assets = {}
    for path, file in _files(files("router_service.front.page") / "static"):
        kind = TYPES.get(file.name.rpartition(".")[2])
        if kind is not None:
            assets[path] = (file.read_bytes(), kind)
    assets["/"] = assets.pop("/index.html")
    return assets


def _files(folder: Traversable, path: str = "") -> Iterator[tuple[str, Traversable]]:
    """Each file of the folder and of those in it, by its path."""
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _files(entry, f"{path}/{entry.name}")
        else:
            yield f"{path}/{entry.name}", entry


def asset_routes() -> list[web.RouteDef]:
    """Return a route for each file."""
    return [web.get(path, _handler(content, kind)) for path, (content, kind) in load_assets().items()]


def _handler(content: bytes, kind: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def serve(_: web.Request) -> web.Response:
        return web.Response(body=content, content_type=kind, charset="utf-8")

    return serve
