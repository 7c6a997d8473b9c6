"""`python -m loupe` does what `loupe` does."""

from loupe.command_line import entry

if __name__ == "__main__":
    entry()
