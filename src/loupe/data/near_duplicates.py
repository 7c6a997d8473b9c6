"""Finds near-duplicates: copies of an image that are recompressed, resized, flipped, rotated or grey.

The features of a photo are the magnitudes of low frequencies in its thumbnail. Shifted grids divide the space of the
features into cells (locality-sensitive hashing, Datar et al. 2004). A photo is compared only with a few photos of the
same cell. For n photos, the time grows as n log n.
"""

import numpy as np

from loupe.data.patches import apply_symmetry

SIDE = 16  # side of a thumbnail in pixels
MIN_CONTRAST = 1.0  # minimum standard deviation of a compared thumbnail, in grey values from 0 to 255
# Minimum correlation between the thumbnails of near-duplicates. For 281 photos of Caltech-256, the correlation with
# recompressed (JPEG quality 10), resized and flipped copies is at least 0.9915, with different photos at most 0.983.
MIN_SIMILARITY = 0.985
FREQUENCIES = 6  # number of low frequencies per axis of the discrete cosine transform
GRIDS, GRID_FEATURES, CELL = 16, 16, 0.2  # number of grids, features per grid, side of a cell
BATCH_SIZE = 1 << 17  # number of thumbnails, or of pairs of thumbnails, per batch
# The photos of a cell are sorted by one more feature. Each photo is compared with this number of photos after it.
NEIGHBOURS = 4


def normalise_thumbnails(thumbnails: np.ndarray) -> np.ndarray:
    """Normalise the brightness and contrast of thumbnails, float32 (n, SIDE, SIDE) from 0 to 255.

    Returns:
        int8, (n, SIDE, SIDE), with a mean of about 0 and a largest absolute value of 127; zeros for a thumbnail
        whose standard deviation is below MIN_CONTRAST.
    """
    values = thumbnails - thumbnails.mean(axis=(1, 2), keepdims=True)
    values[values.std(axis=(1, 2)) < MIN_CONTRAST] = 0
    largest = abs(values).max(axis=(1, 2), keepdims=True)
    return np.rint(values * (127 / np.maximum(largest, MIN_CONTRAST))).astype(np.int8)


def find_groups(hashes: np.ndarray, thumbnails: np.ndarray) -> dict[str, str]:
    """Group the near-duplicates of a collection.

    Args:
        hashes: (n,), the content hashes of the photos as ASCII bytes.
        thumbnails: (n, SIDE, SIDE), results of `normalise_thumbnails`.

    Returns:
        A dictionary from the content hash of each photo with near-duplicates to the smallest content hash of its
        group.
    """
    hashes, chosen = np.unique(hashes, return_index=True)
    indices = np.flatnonzero(thumbnails[chosen].any(axis=(1, 2)))  # photos with contrast
    hashes, thumbnails = hashes[indices], thumbnails[chosen[indices]]
    features = _compute_features(thumbnails)
    smallest = np.arange(len(hashes))  # per photo, the smallest index of a photo in its group
    for grid in range(GRIDS):
        cells = features[:, :GRID_FEATURES] / CELL + np.random.default_rng(grid).random(GRID_FEATURES)
        multipliers = np.random.default_rng(grid).integers(2**63, size=GRID_FEATURES)
        keys = np.floor(cells).astype(np.int64) @ multipliers  # a hash of each photo's cell, modulo 2**64
        order = np.lexsort((features[:, GRID_FEATURES + grid], keys))
        for distance in range(1, NEIGHBOURS + 1):
            pairs = np.stack([order[:-distance], order[distance:]])
            # Comparing only photos of different groups saves two thirds of the time for 30,000 copies of 1,123
            # photos.
            pairs = pairs[:, (keys[pairs[0]] == keys[pairs[1]]) & (smallest[pairs[0]] != smallest[pairs[1]])]
            parts = np.array_split(pairs, 1 + pairs.shape[1] // BATCH_SIZE, axis=1)
            similar = np.concatenate([_are_similar(features, thumbnails, part) for part in parts])
            smallest = _merge_groups(smallest, pairs[:, similar])
    duplicates = np.flatnonzero(smallest < np.arange(len(hashes)))
    photos = np.union1d(duplicates, smallest[duplicates])
    names = (hashes[numbers].astype(str).tolist() for numbers in (photos, smallest[photos]))
    return dict(zip(*names, strict=True))


def _merge_groups(smallest: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Merge the groups of the photos of each pair, (2, n); return the smallest index in the group of each photo.

    SciPy's graph functions are not used: their import takes as long as the preparation of 200 photos.
    """
    while pairs.size:
        pairs = smallest[pairs]
        lower, higher = pairs.min(axis=0), pairs.max(axis=0)
        pairs = pairs[:, lower < higher]
        smallest = smallest.copy()
        np.minimum.at(smallest, higher, lower)
        while np.any(smallest != (smaller := smallest[smallest])):
            smallest = smaller
    return smallest


def _compute_features(thumbnails: np.ndarray) -> np.ndarray:
    """Return the magnitudes of low frequencies, float32 (n, FREQUENCIES**2 - 1), equal for all flips and rotations.

    A flip changes only signs. A quarter turn swaps the magnitudes at (row, column) and (column, row). Therefore
    each such pair is sorted. The distance between two results is at most the distance between the thumbnails after
    `_normalise`.
    """
    rows, columns = np.unravel_index(np.arange(1, FREQUENCIES**2), (FREQUENCIES, FREQUENCIES))
    order = np.argsort(rows + columns, kind="stable")  # low frequencies first
    rows, columns = rows[order], columns[order]
    positions = np.outer(np.arange(FREQUENCIES), np.arange(SIDE) + 0.5)
    cosines = np.cos(np.pi / SIDE * positions).astype("float32") * np.sqrt(2 / SIDE, dtype="float32")
    cosines[0] /= np.sqrt(2)
    features = np.empty((len(thumbnails), len(order)), "float32")
    for start in range(0, len(thumbnails), BATCH_SIZE):
        part = slice(start, start + BATCH_SIZE)
        magnitudes = abs(cosines @ _normalise(thumbnails[part]) @ cosines.T)
        first, second = magnitudes[:, rows, columns], magnitudes[:, columns, rows]
        features[part] = np.where(rows < columns, np.maximum(first, second), np.minimum(first, second))
    return features


def _are_similar(features: np.ndarray, thumbnails: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return whether the thumbnails of each pair (2, n) are similar after one of the 8 flips and rotations."""
    first, second = pairs
    # First exclude pairs by the distance between features. It is at most the distance between the thumbnails, and is
    # faster to compute.
    similar = ((features[first] - features[second]) ** 2).sum(axis=1) <= 2 * (1 - MIN_SIMILARITY)
    left, right = (_normalise(thumbnails[numbers[similar]]) for numbers in pairs)
    correlations = [np.einsum("nij,nij->n", left, apply_symmetry(right, symmetry)) for symmetry in range(8)]
    similar[similar] = np.max(correlations, axis=0) >= MIN_SIMILARITY
    return similar


def _normalise(thumbnails: np.ndarray) -> np.ndarray:
    """Return float32 thumbnails with an L2 norm of 1."""
    values = thumbnails.astype("float32")
    return values / np.sqrt(np.einsum("nij,nij->n", values, values))[:, None, None]
