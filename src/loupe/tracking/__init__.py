"""All code that uses MLflow: opens runs, logs results and models, finds models, and registers them."""
