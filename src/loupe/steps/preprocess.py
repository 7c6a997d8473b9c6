"""Prepares a dataset from photos, and logs its statistics and figures."""

import time
from pathlib import Path

from loupe.cli.progress import print_line
from loupe.config.datasets import Preprocess
from loupe.data.dataset import Dataset
from loupe.data.manifest import MANIFEST
from loupe.data.storage import make_absolute
from loupe.imaging.atomic import remove_leftovers, write_atomically

FIGURE_PHOTOS = 300
FIGURES = {  # each file, and its function in evaluation.figures
    "pairs.png": "plot_pairs",
    "spread-values.png": "plot_value_distribution",
    "spread-images.png": "plot_image_statistics",
}


def run(settings: Preprocess) -> Dataset:
    """Prepare the dataset, or open it if it exists, and log it in a run."""
    from loupe.data import preparation
    from loupe.data.sources import list_photos, name_sources

    photos = list_photos(settings)
    # This import takes seconds, so errors in `source` are reported before it.
    from loupe.tracking import dataset_inputs, records, runs

    runs.open_store()
    start_time = time.perf_counter()
    dataset = preparation.prepare(settings, photos)
    del photos  # frees memory
    figures = _draw_figures(dataset)
    seconds = time.perf_counter() - start_time
    with runs.open_step_run(settings, f"preprocess {name_sources(settings.source)}"):
        counts = dataset.counts
        dataset_inputs.log_dataset(dataset, "prepared")
        records.log_file(dataset.folder / MANIFEST)
        records.log_json(dataset.settings, "settings.json")
        statistics = {
            f"{group}/{name}": value for group, values in dataset.statistics.items() for name, value in values.items()
        }
        records.log_metrics({**counts, **statistics, "preparing_seconds": seconds})
        for figure in figures:
            records.log_file(figure)
        records.log_tags({"loupe.folder": make_absolute(dataset.location)})
    skip_reasons = "".join(f", {count} {reason}" for reason, count in sorted(dataset.skip_reasons.items()))
    print_line(
        f"{dataset.location}: {counts['photos']} photos ({counts['near_duplicates']} near-duplicates in "
        f"{counts['near_duplicate_groups']} groups), {counts['labels']} labels, {counts['skipped']} skipped"
        f"{skip_reasons}",
        settings.quiet,
    )
    return dataset


def _draw_figures(dataset: Dataset) -> list[Path]:
    """Draw all figures of a dataset if the file of a figure is missing, and return the files."""
    files = [dataset.folder / name for name in FIGURES]
    remove_leftovers(dataset.folder)
    if not all(file.exists() for file in files):
        from loupe.evaluation import figures

        pairs = dataset.load_pairs("all", dataset.scales[0], limit=FIGURE_PHOTOS)
        dataset.finish_verification()
        for file, function in zip(files, FIGURES.values(), strict=True):
            with write_atomically(file) as partial:
                getattr(figures, function)(pairs).savefig(partial, dpi=100, format="png")
    return files
