"""Prepares datasets from sources of photos, opens them, and draws training batches."""
