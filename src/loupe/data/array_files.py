"""Maps .npy files into memory."""

from pathlib import Path

import numpy as np

from loupe.errors import describe_error


def map_array(file: Path) -> np.memmap:
    """Map the array of a .npy file into memory, for reading; raise ValueError if it is not a readable .npy file.

    np.load is not used: it also opens .npz files.
    """
    try:
        if not file.is_file():  # opening a FIFO would block
            raise ValueError("it is not a file")
        return np.lib.format.open_memmap(file, mode="r")
    except Exception as error:  # NumPy parses the header as Python code: damage causes errors of many classes
        raise ValueError(describe_error(error)) from None
