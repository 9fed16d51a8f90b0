"""`python -m authz`, and the `authz` command."""

import sys


def main() -> None:
    try:
        from authz.cli.main import run  # noqa: PLC0415 - loading takes a moment, in which Ctrl-C may come

        sys.exit(run(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
