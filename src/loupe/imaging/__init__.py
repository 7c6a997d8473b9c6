"""Reads pixels and metadata from image files, and writes image files."""
