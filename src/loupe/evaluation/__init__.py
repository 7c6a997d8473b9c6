"""Scores upscaling methods on images, and draws figures of the results."""
