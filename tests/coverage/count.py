"""Marks the lines of ours that run in this process: run at the start of each, by a .pth file.

COUNT_LINES names this file, COUNTED_LINES the folder for what each process ran. Devices run our
code out of an archive; its lines count as those of the installed file.
"""

from __future__ import annotations


def start() -> None:
    """Count from now on, and write the lines when the process ends of its own accord."""
    import atexit
    import json
    import os
    import sysconfig
    import uuid
    from pathlib import Path

    import slipcover

    package = Path(sysconfig.get_path("purelib"), "mnv4_deploy")
    ours = f"{os.sep}mnv4_deploy{os.sep}"

    class Ours:
        """What SlipCover asks, in place of its own matcher, which knows no archives."""

        @staticmethod
        def matches(origin: str | None) -> bool:
            _, found, inside = (origin or "").rpartition(ours)
            return bool(found) and (package / inside).is_file()

    counted = slipcover.Slipcover(exclude_lines=[])  # the report leaves lines out
    slipcover.ImportManager(counted, Ours()).__enter__()

    rename = os.rename  # before any test replaces it

    def write() -> None:
        files = counted.get_coverage()["files"].items()
        lines = {name.rpartition(ours)[2]: file["executed_lines"] for name, file in files}
        # By functions that no test replaces.
        target = os.path.join(os.environ["COUNTED_LINES"], uuid.uuid4().hex)  # noqa: PTH118
        with open(target, "w", encoding="utf-8") as file:  # noqa: PTH123
            json.dump(lines, file)
        rename(target, f"{target}.json")  # whole, or not there: some are killed

    at_once = os._exit

    def write_and_exit(code: int) -> None:
        os._exit = at_once
        try:
            write()
        finally:
            at_once(code)

    atexit.register(write)
    os._exit = write_and_exit  # type: ignore[assignment]


if "COUNTED_LINES" in __import__("os").environ:
    start()
