"""The worker process of the demo."""

from loupe.imaging.child_process import Connection
from loupe.photos.worker import serve_requests
from loupe.tracking.resolver import ResolveOptions, resolve_model


def serve_model(connections: list[Connection], model: str, device: str, max_bytes: int, large: bool) -> None:
    """Answer requests; see `serve_requests`."""
    serve_requests(connections[0], lambda: resolve_model(model, ResolveOptions(device=device)), max_bytes, large)
