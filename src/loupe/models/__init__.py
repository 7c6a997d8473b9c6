"""Keras networks, built by name from checked settings."""
