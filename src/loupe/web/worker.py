"""The worker process of the demo: upscales photos with a model that is given by its name."""

import json
import sys

from loupe.photos.worker import serve_requests
from loupe.tracking.resolver import ResolveOptions, resolve_model

if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    resolving = ResolveOptions(device=options["device"])
    serve_requests(lambda: resolve_model(options["model"], resolving), options["max_bytes"], options["large"])
