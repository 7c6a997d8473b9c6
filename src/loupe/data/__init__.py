"""From sources of photos to a prepared dataset, and from there to training batches."""
