"""`python -m archnet` is the command `archnet`."""

from __future__ import annotations

from archnet.cli import main

if __name__ == "__main__":
    main()
