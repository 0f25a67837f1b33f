"""The command `tlkit`, and `python -m tlkit`: that of the environment this Python belongs to."""

import os
import sys


def main() -> None:
    """Runs the command line; signals are handled before the slow imports."""
    _open_closed_streams()
    try:
        from tlkit.utils.signals import immediate_exit, run_interruptible

        with immediate_exit():
            run_interruptible(_run, _hint)
    except KeyboardInterrupt:  # before the handlers are set
        print("tlkit: interrupted.", file=sys.stderr)
        sys.exit(130)


def _open_closed_streams() -> None:
    """Opens the null device for standard input, output or error if they are closed.

    Otherwise the next file that is opened would get their number, and libraries would print to it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def _run() -> None:
    from tlkit.utils.signals import signals_delayed

    with signals_delayed():
        from tlkit.cli import run_command
    run_command()


def _hint() -> str:
    from tlkit.cli import interruption_hint

    return interruption_hint()


if __name__ == "__main__":
    main()
