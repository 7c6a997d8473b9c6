"""Command line: arguments to settings to a step and its exit status; progress and signals."""
