"""Sources of photos to a prepared dataset."""

import io
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from loupe.cli.progress import print_line
from loupe.config.steps import Preprocess
from loupe.data.dataset import Dataset
from loupe.data.manifest import MANIFEST
from loupe.data.storage import make_absolute
from loupe.imaging.atomic import remove_leftovers, write_atomically

SHOWN = 300  # photos that the images are drawn of


def run(settings: Preprocess) -> Dataset:
    """Prepare the dataset, or find it prepared, and log what it holds."""
    from loupe.data import preparation
    from loupe.data.sources import name_sources

    started = time.perf_counter()
    photos = preparation.find_photos(settings)
    with ThreadPoolExecutor(1) as meanwhile:  # MLflow takes seconds to start, and the workers have the photos
        opening = meanwhile.submit(_open_store)
        dataset = preparation.prepare(settings, photos)
        del photos  # the list of a large collection
        images = _images(dataset)
        seconds = time.perf_counter() - started
        opening.result()
    from loupe.tracking import records, runs

    with runs.step_run(settings, f"preprocess {name_sources(settings.source)}"):
        counts = dataset.counts
        records.log_dataset(dataset, "prepared")
        records.log_file(dataset.folder / MANIFEST)
        records.log_json(dataset.settings, "settings.json")
        numbers = {f"{name}/{key}": value for name, of in dataset.statistics.items() for key, value in of.items()}
        records.log_metrics({**counts, **numbers, "preparing_seconds": seconds})
        for image in images:
            records.log_file(image)
        records.log_tags({"loupe.folder": make_absolute(dataset.location)})
    skipped = "".join(f", {count} {kind}" for kind, count in sorted(dataset.skip_reasons.items()))
    print_line(f"{dataset.location}: {counts['photos']} photos, {counts['labels']} labels, "
        f"{counts['skipped']} skipped{skipped}", settings.quiet)  # fmt: skip
    return dataset


def _open_store() -> None:
    from loupe.tracking import runs

    runs.open_store()


def _images(dataset: Dataset) -> list[Path]:
    """The sheet of pairs and the spread plots, drawn once and kept beside the shards."""
    names = {"pairs.png": "plot_pairs", "spread-values.png": "plot_value_distribution",
             "spread-images.png": "plot_image_statistics"}  # fmt: skip
    files = [dataset.folder / name for name in names]
    remove_leftovers(dataset.folder)
    if not all(file.exists() for file in files):
        from loupe.evaluation import figures

        pairs = dataset.load_pairs("all", dataset.scales[0], limit=SHOWN)
        for file, draw in zip(files, names.values(), strict=True):
            drawn = io.BytesIO()
            getattr(figures, draw)(pairs).savefig(drawn, dpi=100)
            with write_atomically(file) as partial:
                partial.write_bytes(drawn.getvalue())
    return files


if __name__ == "__main__":
    from loupe.cli.main import entry

    entry("preprocess")
