"""Where the points of a sweep come from, and which trials are broken off: Optuna's samplers and pruners."""

import optuna
from optuna.trial import Trial

from loupe.search.sweep_file import Chosen, Range, SweepFile

POINTS = 17  # of a curve with that at step 0, unless eval_every is given


def suggest(sweep: SweepFile, trial: Trial) -> Chosen:
    """The point of a trial: what was enqueued with it, or what the sampler proposes."""
    chosen: Chosen = {}
    for key in sweep.ordered():
        if not sweep.applies(key, chosen):
            continue
        values = sweep.search[key]
        if not isinstance(values, Range):
            chosen[key] = trial.suggest_categorical(key, sweep.choices(key))
        elif values.is_whole:
            chosen[key] = trial.suggest_int(key, values.low, values.high, log=values.log, step=int(values.step or 1))
        else:
            chosen[key] = trial.suggest_float(key, values.low, values.high, log=values.log, step=values.step)
    return chosen


def seed_of(sweep: SweepFile, trial: Trial) -> int:
    """The seed of a trial: a grid's last axis; elsewhere all have one."""
    return trial.suggest_int("seed", 0, 2**31 - 1) if sweep.study.sampler == "grid" else sweep.seeds()[0]


def startup(sweep: SweepFile) -> list[Chosen]:
    """The points of `startup`: drawn at random, from the seed alone, before anything runs."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=sweep.seeds()[0]))
    drawn = []
    for _ in range(sweep.study.startup):
        trial = study.ask()
        drawn.append(suggest(sweep, trial))
        study.tell(trial, 0.0)
    return drawn


def sampler(sweep: SweepFile, number: int) -> optuna.samplers.BaseSampler:
    """The sampler of a trial, by its number; a grid's points are all enqueued, so that it samples nothing."""
    seed = sweep.seeds()[0] * 100_003 + number
    if sweep.study.sampler == "tpe":
        return optuna.samplers.TPESampler(seed=seed % 2**32)
    return optuna.samplers.RandomSampler(seed=seed % 2**32)


def pruner(sweep: SweepFile) -> optuna.pruners.BasePruner:
    """Its steps are points of the curve, whatever number of training steps lies between them."""
    if sweep.study.pruner == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=2)
    if sweep.study.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=2, max_resource=POINTS, reduction_factor=3)
    return optuna.pruners.NopPruner()
