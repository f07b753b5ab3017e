"""`python -m archspec` is `archspec`."""

from archspec.cli import main

if __name__ == "__main__":
    main(prog_name="archspec")
