"""``python -m minires`` is the ``minires`` command."""

from .cli import main

if __name__ == "__main__":
    main()
