"""A child of the agent that keeps one model file loaded and runs tensors through it."""

from __future__ import annotations

import os
import sys
from typing import IO, Any

from mnv4_deploy.errors import DeployError, ModelFileError
from mnv4_deploy.profiles.agent.protocol import Message, read_message
from mnv4_deploy.profiles.agent.streams import Sender, error_body, private_streams
from mnv4_deploy.profiles.isolated import die_with, limit_memory
from mnv4_deploy.profiles.records.plain import to_plain


def main() -> None:
    """Answer messages on standard input until it ends: one "open", then any number of "run"."""
    source, target = private_streams()
    die_with(int(os.environ.pop(PARENT)))
    limit_memory()
    stream = os.fdopen(source, "rb")
    sender = Sender(os.fdopen(target, "wb"))
    _serve(stream, sender)
    sys.stdout.flush()
    # Native libraries may crash while they are torn down.
    os._exit(0)


PARENT = "MNV4_DEPLOY_PARENT"


def _serve(stream: IO[bytes], sender: Sender) -> None:
    runner: Any = None
    path = ""
    while message := read_message(stream):
        try:
            if message.kind == "open":
                path = str(message.body["path"])
                runner = _open(message)
                sender.send("done", {"runtime": runner.runtime, "inputs": to_plain(runner.inputs)})
            else:
                sender.send_arrays("done", {}, runner.run(message.arrays()))
        except MemoryError:
            text = f"{path} needs more memory than the device has: give a smaller model."
            sender.send("error", error_body(ModelFileError(text)))
        except DeployError as error:
            sender.send("error", error_body(error))


def _open(message: Message) -> Any:
    from mnv4_deploy.profiles.runtimes.tensors import TensorRunner

    return TensorRunner(str(message.body["path"]), message.body["tensors"])
