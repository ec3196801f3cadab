"""Schedulers that a client cannot use, one of each kind: a process that tells their addresses."""

import asyncio
import json
import ssl
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from distributed import Scheduler, Security


def security(folder: Path, ca: str, name: str, **options) -> Security:
    return Security(
        tls_ca_file=str(folder / f"{ca}.pem"),
        tls_scheduler_cert=str(folder / f"{name}.pem"),
        tls_scheduler_key=str(folder / f"{name}.key"),
        **options,
    )


async def serve(certificates: Path, file: Path) -> None:
    kinds = {
        "plain": None,
        "other CA": security(certificates, "ca", "stranger"),
        "expired": security(certificates, "ca", "expired"),
        "TLS 1.3": security(certificates, "ca", "node", tls_min_version=ssl.TLSVersion.TLSv1_3),
    }
    addresses = {}
    async with AsyncExitStack() as stack:
        for kind, secured in kinds.items():
            scheduler = Scheduler(
                host="127.0.0.1",
                port=0,
                protocol="tls" if secured else "tcp",
                security=secured,
                dashboard=False,
            )
            addresses[kind] = (await stack.enter_async_context(scheduler)).address
        file.write_text(json.dumps(addresses))
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), Path(sys.argv[2])))
