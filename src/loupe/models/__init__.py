"""Builds Keras networks from validated settings, loads and exports them."""
