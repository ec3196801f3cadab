"""The command line in this process."""

from __future__ import annotations

import pytest

from mnv4_deploy.cli import app as cli


def run_command(
    capture: pytest.CaptureFixture[str], *arguments: object
) -> tuple[object, str, str]:
    """The exit code of the command, and what it printed and said."""
    with pytest.raises(SystemExit) as exit_:
        cli.main([str(argument) for argument in arguments])
    return exit_.value.code or 0, *capture.readouterr()
