"""Reads image files to pixels and metadata, and writes them."""
