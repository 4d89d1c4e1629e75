"""The plain-versus-residual study as a script: ``minires depth`` with the same options."""

from __future__ import annotations

import sys

from minires.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["depth"]
    main()
