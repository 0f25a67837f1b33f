"""The command `tlkit`, and `python -m tlkit`: that of the environment this Python belongs to."""

import os
import sys


def main() -> None:
    """Runs the command line; in charge of signals before all that takes time to import."""
    _open_closed_streams()
    try:
        from tlkit.utils.signals import ended_in_order, leave_at_once

        with leave_at_once():
            ended_in_order(_run, _hint)
    except KeyboardInterrupt:  # before anything is in charge of it
        print("tlkit: interrupted.", file=sys.stderr)
        sys.exit(130)


def _open_closed_streams() -> None:
    """Opens to nowhere what was closed of standard input, output and error.

    The next file that is opened would take its number, and what libraries print would go there.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def _run() -> None:
    from tlkit.utils.signals import held_back

    with held_back():
        from tlkit.cli import run_command
    run_command()


def _hint() -> str:
    from tlkit.cli import interruption_hint

    return interruption_hint()


if __name__ == "__main__":
    main()
