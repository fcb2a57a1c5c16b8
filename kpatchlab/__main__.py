"""`python -m kpatchlab`: the same program as the `kpatchlab` command."""

from kpatchlab.cli import main

if __name__ == "__main__":
    main()
