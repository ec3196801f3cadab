"""Which of several files give the same bits on a device, as a table.

    python benchmarks/parity_table.py FILE... --device ssh://pi [--images 16] [--data bundled]

On an emulated Arm system (see arm_device.py):

    python benchmarks/arm_device.py run --root DIR -- \\
        python benchmarks/parity_table.py FILE... --device ssh://arm-device
"""

from __future__ import annotations

import argparse
from pathlib import Path

import mnv4_deploy
from mnv4_deploy.parity.records import DeviceParity, ParityResult


def row(path: Path, result: ParityResult) -> list[str]:
    device = result.devices[0]
    outputs = device.outputs
    apart = "equal"
    if outputs.differing:
        apart = f"{100 * outputs.max_relative_error:.2g} %"
    changed = "" if device.top_class_differs is None else f"{device.top_class_differs}"
    return [
        f"{path.parent.name}/{path.name}",
        outputs.verdict,
        apart,
        f"{changed} of {result.count}" if changed else "",
        *layer_cells(device),
    ]


def layer_cells(device: DeviceParity) -> list[str]:
    if not device.layers:
        return ["", ""]
    count = f"{device.own} of {len(device.layers)}"
    if device.first is None:
        return [count, ""]
    first = device.layers[device.first]
    own = first.own
    codes = "" if own.max_codes is None else f", by up to {own.max_codes} codes"
    return [
        count,
        f"{first.module or first.tensor} ({first.kind}): {own.differing:,} of "
        f"{own.elements:,}{codes}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--device", required=True)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--data", default="bundled")
    arguments = parser.parse_args()
    print("| file | verdict | largest difference | other top-1 | layers that differ | first |")
    print("|-|-|-|-|-|-|")
    reasons = []
    for path in arguments.files:
        result = mnv4_deploy.check_parity(
            path, arguments.device, data=arguments.data, images=arguments.images
        )
        print("| " + " | ".join(row(path, result)) + " |", flush=True)
        device = result.devices[0]
        if device.explanation:
            reasons.append(f"{path.parent.name}/{path.name}: {device.explanation}")
        reasons += [f"{path.parent.name}/{path.name}: note: {note}" for note in device.notes]
    print("\n" + "\n".join(reasons))


if __name__ == "__main__":
    main()
