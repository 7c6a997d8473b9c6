"""The sheet of crops: which crops it shows, and in which order."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure

from loupe.data.pairs import Pairs
from loupe.errors import UsageError
from loupe.evaluation import figures
from loupe.upscalers.baselines import FilterUpscaler

SIDE = 30  # of a label; an input has 20


@pytest.fixture
def pairs() -> Pairs:
    """Return six flat photos. The fourth and the second have a striped corner; the fourth's stripes are sharper."""
    labels = [np.full((SIDE, SIDE), 100, np.uint8) for _ in range(6)]
    labels[3][:10, 20:] = np.tile([0, 255], 5)
    labels[1][20:, :10] = np.tile([60, 140], 5)
    rows = [{"path": f"{number}.png", "sha256": str(number)} for number in range(6)]
    return Pairs.from_images(rows, [np.full((20, 20), 100, np.uint8)] * 6, labels, Fraction(3, 2))


def test_the_sheet_shows_the_sharpest_crops_by_every_method_in_order(pairs: Pairs) -> None:
    scale = pairs.scale
    methods = {"plain": FilterUpscaler("nearest", scale), "final": FilterUpscaler("bicubic", scale)}
    figure = figures.plot_sheet(methods, pairs)
    titles = [axes.get_title().split("\n")[0] for axes in figure.axes]
    assert titles == ["input", "plain", "final", "label"] * figures.SHEET_ROWS
    shown = [axes.images[0].get_array() for axes in figure.axes]
    assert [crop.shape for crop in shown[:4]] == [(6, 6), (10, 10), (10, 10), (10, 10)]
    stripes, softer = shown[3], shown[7]
    assert set(np.unique(stripes)) == {-1, 1}
    assert len(np.unique(softer)) == 2
    assert not np.ptp(shown[11])
    label = pairs[3][1] / 127.5 - 1
    whole = np.abs(shown[1].mean() - label).mean()  # a flat input stays flat
    assert figure.axes[1].get_title() == f"plain\nmae {whole:.4f}"


def test_the_sheet_shows_each_photo_once(pairs: Pairs) -> None:
    rows = [row | {"sha256": str(number // 3)} for number, row in enumerate(pairs.rows)]
    twice = Pairs.from_images(
        rows, [pairs[index][0] for index in range(6)], [pairs[index][1] for index in range(6)], pairs.scale
    )
    assert len(figures.plot_sheet({}, twice).axes) == 2 * 2  # two photos, input and label


@pytest.mark.parametrize("extension", [*FigureCanvasBase.get_supported_filetypes(), "", "PNG", "doc"])
def test_a_sheet_is_written_or_its_format_is_refused(extension: str, tmp_path: Path) -> None:
    file = tmp_path / f"sheet.{extension}"
    if extension in ("pgf", "raw", "rgba", "doc"):
        with pytest.raises(UsageError, match=r"^sheet: must end in one of avif, .*, png, .*, got "):
            figures.validate_format(file)
    else:
        figures.validate_format(file)
        figures.save_figure(Figure(figsize=(0.1, 0.1)), file)
        assert file.stat().st_size


@pytest.mark.parametrize("sides", [(30, 90), (90, 30), (1, 7), (2, 2), (31, 64)])
def test_the_most_detailed_crop_is_found_anywhere_in_images_of_any_aspect_ratio(sides: tuple[int, int]) -> None:
    height, width = sides
    flat = np.zeros(sides, "float32")
    for y, x in ((0, 0), (0, width - 1), (height - 1, 0), (height - 1, width - 1), (height // 2, width // 2)):
        image = flat.copy()
        image[y, x] = 1
        rows, columns = figures._find_detailed_crop(image)
        side = max(1, min(sides) // 3)
        assert image[rows, columns].shape == (side, side)
        assert rows.start - 1 <= y <= rows.stop  # a neighbour of the changed pixel at least
        assert columns.start - 1 <= x <= columns.stop
