"""Scores of upscaling methods on images, and figures of them."""
