"""`python -m textless`."""

from textless.cli import main

main()
