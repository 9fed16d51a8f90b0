"""`python -m authz`, and the `authz` command."""

import sys

from authz.cli.main import run


def main() -> None:
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
