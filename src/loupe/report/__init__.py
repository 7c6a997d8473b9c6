"""Checks the claims of the study against the table of runs, and renders the report."""
