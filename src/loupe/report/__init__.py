"""The report: the table of runs and the claims, to one HTML page, one Markdown page, and tables in README."""
