"""Makes `python -m loupe` equivalent to the command `loupe`."""

from loupe.cli.main import entry

if __name__ == "__main__":
    entry()
