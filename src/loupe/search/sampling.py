"""Optuna's samplers, which choose the parameters of trials, and pruners, which stop poor trials early."""

import optuna
from optuna.trial import Trial

from loupe.config.base import MAX_SEED
from loupe.search.sweep_file import Params, SweepFile
from loupe.search.values import Range

CURVE_POINTS = 17  # points of a learning curve by default
# NSGA-II: planned number of generations, and maximum number of trials per generation
GENERATIONS, MAX_POPULATION = 5, 50


def suggest_params(sweep: SweepFile, trial: Trial) -> Params:
    """Return the parameters of a trial, without those whose condition does not hold.

    The sampler chooses the parameters that were not fixed when the trial was enqueued.
    """
    params: Params = {}
    for key in sweep.order_keys():
        if not sweep.is_active(key, params):
            continue
        values = sweep.search[key]
        if not isinstance(values, Range):
            params[key] = trial.suggest_categorical(key, sweep.list_choices(key))
        elif sweep.is_integer(key):
            params[key] = trial.suggest_int(key, values.low, values.last, log=values.log, step=int(values.step or 1))
        else:
            params[key] = trial.suggest_float(key, values.low, values.last, log=values.log, step=values.step)
    return params


def suggest_seed(sweep: SweepFile, trial: Trial) -> int:
    """Return the seed with which a trial trains its network.

    In a grid, each trial is enqueued with its seed. Without a grid, all trials have the same seed.
    """
    return trial.suggest_int("seed", 0, MAX_SEED) if sweep.is_grid else sweep.seeds[0]


def draw_startup_points(sweep: SweepFile) -> list[Params]:
    """Draw `startup` random points."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=sweep.seeds[0]))
    points = []
    for _ in range(sweep.study.startup):
        trial = study.ask()
        points.append(suggest_params(sweep, trial))
        study.tell(trial, 0.0)  # ends the trial
    return points


def create_sampler(sweep: SweepFile, number: int) -> optuna.samplers.BaseSampler:
    """Return the sampler of the trial with this number; a grid does not use the sampler."""
    seed = (sweep.seeds[0] * 100_003 + number) % 2**32
    if sweep.study.sampler == "tpe":
        return optuna.samplers.TPESampler(seed=seed)
    if sweep.study.sampler == "nsga2":
        population = min(MAX_POPULATION, max(2, sweep.study.trials // GENERATIONS))
        return optuna.samplers.NSGAIISampler(population_size=population, seed=seed)
    return optuna.samplers.RandomSampler(seed=seed)


def create_pruner(sweep: SweepFile) -> optuna.pruners.BasePruner:
    """Return the pruner of a sweep. A step of the pruner is a point of the learning curve."""
    if sweep.study.pruner == "median":
        # Prunes from point 2 of a curve (point 0 is at step 0), when 4 other trials are complete
        return optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=2)
    if sweep.study.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=2, max_resource=CURVE_POINTS, reduction_factor=3)
    return optuna.pruners.NopPruner()
