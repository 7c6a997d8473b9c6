"""Fits one variant: loop, schedule, checkpoint, resume, diagnostics."""
