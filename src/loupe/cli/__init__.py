"""The command line: arguments, help, output, progress bars and signals."""
