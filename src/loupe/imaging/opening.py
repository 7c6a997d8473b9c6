"""Opens image files with Pillow, and lists the pages of a TIFF.

`TiffImage` also opens TIFFs whose pixels only libvips can decode.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image, JpegImagePlugin, TiffImagePlugin

from loupe.cli.extras import describe_missing_package
from loupe.imaging.decoder import BITS_PER_SAMPLE, PhotoError
from loupe.imaging.formats import READ_EXTENSIONS, is_heif, is_jpeg_xl

COMPRESSION, PHOTOMETRIC, SAMPLES_PER_PIXEL, PLANES, TILE_WIDTH = 259, 262, 277, 284, 322  # numbers of TIFF tags
EXTRA_SAMPLES, SAMPLE_FORMAT, SUBFILE_TYPE, BIT_ORDER = 338, 339, 254, 266
RESOLUTIONS = {282, 283}  # horizontal and vertical
PIXEL_TAGS = (
    BITS_PER_SAMPLE, COMPRESSION, PHOTOMETRIC, BIT_ORDER, SAMPLES_PER_PIXEL, PLANES, EXTRA_SAMPLES, SAMPLE_FORMAT
)  # fmt: skip
SUBDIRECTORIES, DNG_VERSION = 330, 50706
CR2_MARK = b"CR"  # at byte 8 of a raw photo of the format CR2
RAW_PHOTO = "is a raw photo of a camera, which is not supported; convert it to a TIFF or JPEG"
NOT_A_PAGE = 1 | 4  # bits of SUBFILE_TYPE: a thumbnail, or a mask
MAX_SKIPPED = 5000  # maximum number of thumbnails and masks in a TIFF; opening each takes time
WEBP_COMPRESSION = 50001  # libvips decodes pages with this compression
# Compressions that libvips decodes. For other compressions, libvips often returns black pixels.
VIPS_COMPRESSIONS = (1, 2, 3, 4, 5, 7, 8, 32946, 32773, WEBP_COMPRESSION)
WHITE_IS_ZERO, CMYK, LAB = 0, 5, 8  # values of PHOTOMETRIC
VIPS_PHOTOMETRIC = (WHITE_IS_ZERO, 1, 2, 3, CMYK, 6, LAB)  # 1: grey, 2: RGB, 3: palette, 6: YCbCr
PNG_PREFIX = b"\x89PNG"
JPEG_PREFIX = b"\xff\xd8\xff"
UNSIGNED, SIGNED, FLOAT, UNDEFINED = 1, 2, 3, 4  # values of SAMPLE_FORMAT


class TiffImage(TiffImagePlugin.TiffImageFile):
    """A TIFF that can be opened even if Pillow cannot decode its pixels."""

    def _setup(self) -> None:
        self._is_unknown = False
        for name in ("icc_profile", "dpi"):  # Pillow keeps the values of the page that was read before
            self.info.pop(name, None)
        try:
            super()._setup()
        except (KeyError, SyntaxError):
            # Pillow does not know the pixel format: open the page without the tags that describe it.
            tags = {tag: self.tag_v2.pop(tag) for tag in PIXEL_TAGS if tag in self.tag_v2}
            super()._setup()
            self.tag_v2.update(tags)
            self._is_unknown = True
            self.tile = []
            self._mode = {1: "L", 2: "LA", 3: "RGB"}.get(int(tags.get(SAMPLES_PER_PIXEL, 1)), "RGBA")
        if not self.tag_v2.keys() >= RESOLUTIONS:
            self.info.pop("dpi", None)  # Pillow's default, 1

    def needs_vips(self) -> bool:
        """Return whether libvips must decode the current page: Pillow may fail, or samples have more than 12 bits."""
        unusual = not self._get_formats() <= {UNSIGNED, UNDEFINED} or self._get(COMPRESSION, 1) == WEBP_COMPRESSION
        return self._is_unknown or unusual or max(self._get(BITS_PER_SAMPLE, (1,))) > 12

    def get_photometric(self) -> int:
        """Return the kind of the colours (PhotometricInterpretation)."""
        kind: int = self._get(PHOTOMETRIC, WHITE_IS_ZERO)
        return kind

    def get_extra_samples(self) -> tuple[int, ...]:
        """Return the kinds of the bands after the colours (ExtraSamples)."""
        return tuple(self._get(EXTRA_SAMPLES, ()))

    def validate_for_vips(self) -> None:
        """Raise PhotoError if libvips does not decode the current page correctly."""
        bits, formats = {*self._get(BITS_PER_SAMPLE, (1,))}, self._get_formats()
        compression, colours = self._get(COMPRESSION, 1), self.get_photometric()
        is_float = formats == {FLOAT}
        if compression not in VIPS_COMPRESSIONS:
            reason = f"compression {compression}"
        elif colours not in VIPS_PHOTOMETRIC or (is_float and colours == WHITE_IS_ZERO):
            reason = f"photometric interpretation {colours}"
        elif len(bits) > 1 or not bits <= ({16, 32} if is_float else {8, 16}):
            reason = f"{', '.join(map(str, sorted(bits)))} bits per sample"
        elif not is_float and not formats <= {UNSIGNED, UNDEFINED, SIGNED if colours == LAB else UNSIGNED}:
            reason = "signed integers"
        elif self._get(PLANES, 1) != 1 and (TILE_WIDTH in self.tag_v2 or (is_float and bits == {16})):
            reason = "separate planes"
        else:
            return
        raise PhotoError(f"is a TIFF {'of floats ' * is_float}with {reason}, which is not supported")

    def _get(self, tag: int, default: Any) -> Any:
        return self.tag_v2.get(tag, default)

    def _get_formats(self) -> set[int]:
        return {*self._get(SAMPLE_FORMAT, (UNSIGNED,))}


def open_image(path: Path) -> Image.Image:
    """Open an image file of a supported format.

    Other formats are not tried, because Pillow decodes files of some of them, such as ICO, when it opens them.

    Raises:
        PhotoError: the format is not supported, for example CR2, or its plugin is not installed.
        Exception: any other error, for example of a damaged file; see `translate_errors`.
    """
    with path.open("rb") as file:
        head = file.read(12)
    if head[:4] in TiffImagePlugin.PREFIXES:
        if head[8:].startswith(CR2_MARK):
            raise PhotoError(RAW_PHOTO)
        return TiffImage(path)
    Image.preinit()
    # Pillow loads all plugins when it tries a format whose plugin is not loaded. Such formats come last.
    formats = sorted(READ_EXTENSIONS.keys() - {"HEIF", "JXL"}, key=lambda name: (name not in Image.OPEN, name))
    try:
        return Image.open(path, formats=formats)
    except Image.UnidentifiedImageError:
        if head.startswith(JPEG_PREFIX):
            JpegImagePlugin.JpegImageFile(path)  # raises the error that Image.open hides
        if head.startswith(PNG_PREFIX) and (content := _remove_png_profile(path)):
            image = Image.open(io.BytesIO(content), formats=["PNG"])
            image.info["icc_profile"] = None  # `read_photo` then reports an unsuitable profile
            return image
        if not _load_plugin(head):
            raise PhotoError(f"not an image of a supported format: {', '.join(READ_EXTENSIONS)}") from None
    return Image.open(path)


def _remove_png_profile(path: Path) -> bytes:
    """Return a PNG without its profile, because Pillow cannot open some profiles; b"" if the PNG has no profile."""
    content = path.read_bytes()
    start = content.partition(b"IDAT")[0].find(b"iCCP") - 4
    length = int.from_bytes(content[start : start + 4], "big")
    # A chunk has 12 bytes besides its content.
    return content[:start] + content[start + 12 + length :] if start > 0 else b""


def _load_plugin(head: bytes) -> bool:
    """Load Pillow's plugin for a file with these first bytes; return whether the file needs a plugin.

    Raises:
        PhotoError: the plugin is not installed.
    """
    try:
        if is_heif(head):
            import pi_heif

            pi_heif.register_heif_opener()
        elif is_jpeg_xl(head):
            import pillow_jxl  # noqa: F401 # registers itself
        else:
            return False
    except ModuleNotFoundError as error:
        name = "HEIC" if is_heif(head) else "JPEG XL"
        raise PhotoError(f"is a {name} file, which {describe_missing_package(error)}") from None
    return True


def count_images(image: Image.Image) -> int:
    """Return the number of frames, including the default image of an animated PNG.

    The result is 1 for an MPO or HEIF, because Loupe reads only its primary image.
    """
    return 1 if image.format in ("MPO", "HEIF") else getattr(image, "n_frames", 1)


def list_pages(image: Image.Image) -> Iterator[int]:
    """Seek to each page of a TIFF and yield its number. Thumbnails and masks are not pages.

    If a TIFF has no pages, seek to its first image and yield 0.

    Raises:
        PhotoError: more than MAX_SKIPPED images are not pages, or the file is a raw photo: it has no pages, but
            subdirectories (such as NEF and ARW) or a DNG version.
    """
    number = page_count = 0
    try:
        while True:
            image.seek(number)
            if not image.tag_v2.get(SUBFILE_TYPE, 0) & NOT_A_PAGE:  # type: ignore[attr-defined]
                page_count += 1
                yield number
            number += 1
            if number - page_count > MAX_SKIPPED:
                raise PhotoError(f"must have at most {MAX_SKIPPED} thumbnails and masks, got more")
    except EOFError:
        if not page_count:
            image.seek(0)
            if {SUBDIRECTORIES, DNG_VERSION} & image.tag_v2.keys():  # type: ignore[attr-defined]
                raise PhotoError(RAW_PHOTO) from None
            yield 0
