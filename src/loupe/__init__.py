"""Loupe turns small photos into large ones with networks that it trains, compares and registers."""

__version__ = "0.1.0"
