"""The only part that talks to MLflow: `runs` writes what a step did, `models` finds and registers networks."""
