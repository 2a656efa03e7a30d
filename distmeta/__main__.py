"""`python -m distmeta`: the same as the `distmeta` command."""

from distmeta.cli import main

if __name__ == "__main__":
    main()
