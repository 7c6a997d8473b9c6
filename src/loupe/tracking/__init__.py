"""All code that uses MLflow."""
