"""``python -m snncompile``: the command line without the installed script."""

from snncompile.cli import main

if __name__ == "__main__":
    main()
