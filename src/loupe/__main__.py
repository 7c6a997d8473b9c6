"""`python -m loupe` does what `loupe` does."""

from loupe.cli.main import entry

if __name__ == "__main__":
    entry()
