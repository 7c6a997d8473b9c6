"""Draw the first image of the README: one JPEG, upscaled 2 times by Lanczos and by Loupe.

    python docs/before_after.py

`images/macaw.jpg` is a region of Kodak photo 23, downscaled by 2 with Lanczos and saved as JPEG with quality 75. No
network was trained on this photo.
"""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from loupe import Upscaler

IMAGES = Path(__file__).parent / "images"
SCALE = 2
MARGIN = 10  # input pixels per side whose results depend on pixels outside the region
GAP = 8


def draw_comparison(small: Image.Image) -> Image.Image:
    """Draw both upscaled images next to each other, each with its label."""
    size = (small.width * SCALE, small.height * SCALE)
    images = {
        "Lanczos": small.resize(size, Image.Resampling.LANCZOS),
        "Loupe": Upscaler.load("bundled")(small, scale=SCALE),
    }
    edge = MARGIN * SCALE
    width, height = size[0] - 2 * edge, size[1] - 2 * edge
    sheet = Image.new("RGB", (2 * width + GAP, height), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (name, image) in enumerate(images.items()):
        left = index * (width + GAP)
        sheet.paste(image.crop((edge, edge, edge + width, edge + height)), (left, 0))
        draw.text(
            (left + 10, height - 34), name, "white", ImageFont.load_default(24), stroke_width=2, stroke_fill="black"
        )
    return sheet


if __name__ == "__main__":
    draw_comparison(Image.open(IMAGES / "macaw.jpg")).save(IMAGES / "before-after.png", optimize=True)
