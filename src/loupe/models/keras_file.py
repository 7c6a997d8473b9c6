"""Loads untrusted .keras files. It accepts only the files of a network, and runs no code from them."""

import zipfile
from pathlib import Path

import keras

ALLOWED_MEMBERS = frozenset(("metadata.json", "config.json", "model.weights.h5"))
MAX_BYTES = 2**31  # of all members, uncompressed


def load(file: Path) -> keras.Model:
    """Load an uncompiled network in Keras's safe mode, which builds only Keras's own layers and refuses code.

    Raises:
        ValueError: the file is not a .keras file, has unexpected members, or its model does not take grey
            images. Malicious files can make Keras raise other exceptions.
    """
    if file.suffix != ".keras":
        raise ValueError("must be a .keras file")
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
    unexpected = {member.filename for member in members} - ALLOWED_MEMBERS
    if unexpected:
        raise ValueError(f"must contain only the parts of a network, got {min(unexpected)!r}")
    size = sum(member.file_size for member in members)
    if size > MAX_BYTES:
        raise ValueError(f"must have at most {MAX_BYTES} bytes uncompressed, got {size}")
    model = keras.saving.load_model(file, compile=False, safe_mode=True)
    if not isinstance(model, keras.Model) or [part.shape for part in model.inputs] != [(None, None, None, 1)]:
        raise ValueError("must take grey images, (n, h, w, 1)")
    return model
