"""Prepares datasets from sources of photos, opens datasets, and draws training batches."""
