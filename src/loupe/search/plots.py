"""Optuna's plots of a study, as Matplotlib figures."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
import optuna
from matplotlib import pyplot
from matplotlib.figure import Figure
from optuna.trial import TrialState


def plot_study(study: optuna.Study, params: Sequence[str], objectives: Sequence[str]) -> dict[str, Figure]:
    """Plot the history, slices, parallel coordinates and parameter importances of a study.

    Importances are plotted only for parameters that all complete trials have. For a study with two objectives, also
    plot the Pareto front.

    Args:
        study: the study.
        params: the parameters to plot; a parameter is left out unless at least two complete trials have it.
        objectives: the names of the objectives.

    Returns:
        Figures by name; {} with fewer than two complete trials, or without a parameter to plot.
    """
    from optuna.visualization import matplotlib as plots

    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    plotted = [name for name in params if sum(name in trial.params for trial in complete) > 1]
    if len(complete) < 2 or not plotted:
        return {}
    common = [name for name in plotted if all(name in trial.params for trial in complete)]
    axes: dict[str, Any] = {}
    with warnings.catch_warnings(), matplotlib.rc_context({"figure.figsize": (9, 5)}), _use_agg():
        warnings.simplefilter("ignore")  # Optuna's plots are experimental
        target: dict[str, Any] = {"target": lambda trial: trial.values[0], "target_name": objectives[0]}
        axes["history"] = plots.plot_optimization_history(study, **target)
        axes["slice"] = plots.plot_slice(study, params=plotted, **target)
        axes["parallel"] = plots.plot_parallel_coordinate(study, params=plotted, **target)
        if len(objectives) > 1:
            axes["front"] = plots.plot_pareto_front(study)
        if common:
            evaluator = optuna.importance.PedAnovaImportanceEvaluator()
            axes["importances"] = plots.plot_param_importances(study, evaluator=evaluator, params=common, **target)
        figures = {name: np.ravel(plot)[0].figure for name, plot in axes.items()}
        for figure in figures.values():
            pyplot.close(figure)  # a notebook shows figures that are not closed
    return figures


@contextmanager
def _use_agg() -> Iterator[None]:
    """Use Matplotlib's backend Agg until the block exits. A notebook needs its own backend afterwards."""
    backend = matplotlib.get_backend(auto_select=False)
    pyplot.switch_backend("Agg")
    try:
        yield
    finally:
        if backend:
            pyplot.switch_backend(backend)
