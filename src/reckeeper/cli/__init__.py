"""The command line: `reckeeper …`."""

import signal


def main() -> None:
    """Run the command line; a deliberate error is one line on stderr and exit status 2."""
    # The imports take a second, in which Ctrl-C ends the process as the system does:
    # an exception would come up anywhere in them, with a traceback.
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from reckeeper.cli.commands import run

    signal.signal(signal.SIGINT, handler)
    run()
