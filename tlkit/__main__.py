"""The command `tlkit`, and `python -m tlkit`: that of the environment this Python belongs to."""

import sys


def main() -> None:
    """Runs the command line; in charge of signals before all that takes time to import."""
    try:
        from tlkit.signals import ended_in_order, leave_at_once

        with leave_at_once():
            ended_in_order(_run, _hint)
    except KeyboardInterrupt:  # before anything is in charge of it
        print("tlkit: interrupted.", file=sys.stderr)
        sys.exit(130)


def _run() -> None:
    from tlkit.signals import held_back

    with held_back():
        from tlkit.cli import run_command
    run_command()


def _hint() -> str:
    from tlkit.cli import interruption_hint

    return interruption_hint()


if __name__ == "__main__":
    main()
