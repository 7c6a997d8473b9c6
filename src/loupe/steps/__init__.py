"""The steps, one module with a function `run` per step."""
