"""A .keras file to its network: nothing that is not a network's gets in, and no code of the file runs."""

import zipfile
from pathlib import Path

import keras

PARTS = frozenset(("metadata.json", "config.json", "model.weights.h5"))  # all that such a file holds
LARGEST = 2**31  # bytes of it, unpacked


def load(file: Path) -> keras.Model:
    """The network, uncompiled; by Keras' safe mode, which builds its own layers only, and none that hold code.

    Raises:
        ValueError: it is no such file, holds anything else, or takes no grey images. A file that was made to do
            harm raises whatever else it leads Keras to.
    """
    if file.suffix != ".keras":
        raise ValueError("must be a .keras or .onnx file")
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
    foreign = {member.filename for member in members} - PARTS
    if foreign:
        raise ValueError(f"holds {min(foreign)!r}, which is no part of a network")
    size = sum(member.file_size for member in members)
    if size > LARGEST:
        raise ValueError(f"holds {size} bytes, at most {LARGEST}")
    model = keras.saving.load_model(file, compile=False, safe_mode=True)
    if not isinstance(model, keras.Model) or [part.shape for part in model.inputs] != [(None, None, None, 1)]:
        raise ValueError("it does not take images, (n, h, w, 1)")
    return model
