"""Hyperparameter search with Optuna: loads sweep files, plans the trials of a study, and runs them in workers."""
