"""Decodes images in the child process of `isolated_reader`.

A request with the path of a file opens the file; the answer contains the fields of `Photo` except the images.
The answer to the request "decode" is one message per image, then an empty message; the file is then closed. The
request "close" closes the file and has no answer. If a request fails, the answer contains the reason, and the file
is closed.
"""

from dataclasses import fields
from pathlib import Path

import numpy as np
from PIL import Image

from loupe.imaging.child_process import Connection
from loupe.imaging.decoder import PhotoError
from loupe.imaging.estimates import LIBRARY_BYTES
from loupe.imaging.exif import MAX_EXIF_BYTES
from loupe.imaging.image_data import ImageData
from loupe.imaging.limits import limit_process, read_data_bytes, return_freed_blocks
from loupe.imaging.reader import Photo, read_photo

# Limits of the CPU time: BASE_CPU_S to open a file; to decode an image, also CPU_S_PER_MEGAPIXEL per megapixel.
# Photos take up to 0.1 s per megapixel.
BASE_CPU_S, CPU_S_PER_MEGAPIXEL = 10, 0.2
LARGE_BLOCK_BYTES = 2**18  # freed blocks of at least this size return to the system
MAX_METADATA_BYTES = 64_000_000


def serve(connections: list[Connection]) -> None:
    """Answer requests until the connection is closed; then raise EOFError."""
    (connection,) = connections
    return_freed_blocks(LARGE_BLOCK_BYTES)
    Image.preinit()
    own_bytes = read_data_bytes()
    photo: Photo | None = None
    while True:
        request, _ = connection.receive()
        try:
            if request == "decode":
                if photo is None:
                    raise PhotoError("cannot be decoded: the file is closed")
                _send_images(connection, photo, own_bytes)
            elif request != "close":
                with limit_process(own_bytes + request["opening_bytes"], BASE_CPU_S):
                    photo = read_photo(Path(request["path"]), request["strip"])
                names = [field.name for field in fields(photo) if field.name != "images"]
                connection.send({name: getattr(photo, name) for name in names})
                continue
        except PhotoError as error:
            connection.send({"error": str(error)})
        photo = None


def _send_images(connection: Connection, photo: Photo, own_bytes: int) -> None:
    pixels = max(width * height for width, height in (photo.size, *photo.page_sizes))
    cpu_s = round(BASE_CPU_S + CPU_S_PER_MEGAPIXEL * pixels / 1e6)
    while True:
        with limit_process(own_bytes + photo.decoding_bytes + LIBRARY_BYTES, cpu_s):
            image = next(photo.images, None)
        if image is None:
            break
        _send_image(connection, image)
        del image  # frees the pixels
    connection.send({})


def _send_image(connection: Connection, image: ImageData) -> None:
    metadata = image.metadata
    exif = b"" if metadata.exif is None else metadata.exif.tobytes()
    other_bytes = sum(map(len, (metadata.icc, metadata.xmp, metadata.iptc, *metadata.texts.values())))
    for name, size, limit in (("EXIF", len(exif), MAX_EXIF_BYTES), ("metadata", other_bytes, MAX_METADATA_BYTES)):
        if size > limit:
            raise PhotoError(f"{name}: must have at most {limit:,} bytes, got {size:,}")
    image_fields = {
        "shape": image.pixels.shape,
        "dtype": image.pixels.dtype.name,
        "dpi": metadata.dpi,
        "texts": metadata.texts,
        "chunks": [name.decode() for name in metadata.colour_chunks],
        "duration_ms": metadata.duration_ms,
        "omitted": metadata.omitted,
        "jpeg_quality": image.jpeg_quality,
    }
    pixels = image.pixels.reshape(-1).view(np.uint8)
    chunks = metadata.colour_chunks.values()
    connection.send(image_fields, pixels, exif, metadata.icc, metadata.xmp, metadata.iptc, *chunks)
