"""`python -m incontext`: the command line, where its program is not on the path."""

from incontext.cli import main

if __name__ == "__main__":
    main()
