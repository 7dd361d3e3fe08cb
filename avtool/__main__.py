"""``python -m avtool``."""

from avtool.cli import main

if __name__ == "__main__":
    main()
