"""Image files to pixels and metadata, and back: the only decoder and the only encoder."""
