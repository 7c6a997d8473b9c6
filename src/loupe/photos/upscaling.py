"""Pages of photos to large pages, by networks under onnxruntime; neither TensorFlow nor MLflow is imported."""

from collections.abc import Callable
from fractions import Fraction

from loupe.imaging.reader import LargePage, Page, Photo, with_size
from loupe.photos import sizes, strips
from loupe.photos.networks import Networks


def size_of(size: sizes.Size, scale: Fraction | None, wanted: sizes.Size | None, networks: Networks) -> sizes.Size:
    """Width and height of a result.

    Args:
        size: of the photo.
        scale: large side over small side; None: the smallest that there is a network of.
        wanted: the size itself, not by a scale.
        networks: that there are.

    Raises:
        PhotoError: the photo's shape is not that of `wanted`.
    """
    if wanted is not None:
        return sizes.fitted(size, wanted)
    return sizes.scaled(size, min(networks.scales) if scale is None else scale)


def large_page(page: Page, size: sizes.Size, networks: Networks) -> LargePage:
    """A page upscaled to a size, its rows computed when they are asked for."""
    height, width = page.pixels.shape[:2]
    scale = sizes.network_scale((width, height), size, networks.scales)
    model = None if scale is None else networks(scale)
    return LargePage(size, strips.strips(page.pixels, size, model), with_size(page, *size))


def page_upscaler(
    scale: Fraction | None, wanted: sizes.Size | None, networks: Networks
) -> Callable[[Page], LargePage]:
    """What makes large pages of pages; arguments as `size_of` takes them."""

    def upscaled(page: Page) -> LargePage:
        height, width = page.pixels.shape[:2]
        return large_page(page, size_of((width, height), scale, wanted, networks), networks)

    return upscaled


def large_pages(
    photo: Photo, scale: Fraction | None, wanted: sizes.Size | None, networks: Networks
) -> "map[LargePage]":
    """The pages of a photo, upscaled one after another; the pages of a TIFF may differ in size."""

    return map(page_upscaler(scale, wanted, networks), photo.pages)
