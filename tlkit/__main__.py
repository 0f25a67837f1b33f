"""`python -m tlkit` is the command line of the environment that this Python belongs to."""

from tlkit.cli import main

if __name__ == "__main__":
    main()
