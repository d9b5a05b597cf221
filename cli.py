"""Run the command from a clone without installing: `python cli.py encode …`."""

from textless.cli import main

if __name__ == "__main__":
    main()
