"""Trains one network: loop, batches, optimizer, checkpoints, diagnostics."""
