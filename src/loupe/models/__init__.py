"""Keras networks, built from validated settings."""
