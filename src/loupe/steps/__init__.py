"""The steps, one module per step. The function `run` of a module runs the step with validated settings."""
