"""The entry points, one file each: parse, do, log."""
