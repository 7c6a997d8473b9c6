"""Checks the claims of the 2016 study against a table of runs."""
