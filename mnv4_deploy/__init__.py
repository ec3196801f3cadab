"""From PyTorch mobile vision models to verified int8 ONNX and TFLite.

There is a function for each command of the command line::

    import mnv4_deploy

    result = mnv4_deploy.export("hybrid-m", "out/hybrid-m", int8=True)
    facts = mnv4_deploy.inspect("out/hybrid-m/hybrid-m-int8.tflite")
    profile = mnv4_deploy.profile("out/hybrid-m/hybrid-m-int8.tflite", threads=2)
    for finding in profile.findings:
        print(finding.title, finding.recoverable_us)
    drift = mnv4_deploy.measure_drift("m-fp32.onnx", "m-int8.tflite", data="photos")
    print(drift.output.top1_drop, drift.layers.ranking[0].cause.sentence)
    parity = mnv4_deploy.check_parity("m-int8.tflite", "ssh://pi")
    print(parity.devices[0].outputs.verdict)
    for model in mnv4_deploy.list_models():
        print(model.name, model.macs)

Keywords and defaults are those of the command. What cannot be used, files and arguments alike, and
what goes wrong is a ``mnv4_deploy.errors.DeployError``; an unknown keyword is a TypeError.
"""

from __future__ import annotations

import os

from mnv4_deploy.api.files import (
    compare,
    compare_devices,
    inspect,
    measure_drift,
    predict,
    profile,
)
from mnv4_deploy.api.machines import (
    check_parity,
    clear_cache,
    inspect_device,
    list_caches,
    list_machines,
    measure_machine,
    remove_device_setup,
)
from mnv4_deploy.api.models import export, find_model, list_models, sweep_roofline

__all__ = [
    "check_parity",
    "clear_cache",
    "compare",
    "compare_devices",
    "export",
    "find_model",
    "inspect",
    "inspect_device",
    "list_caches",
    "list_machines",
    "list_models",
    "measure_drift",
    "measure_machine",
    "predict",
    "profile",
    "remove_device_setup",
    "sweep_roofline",
]
__version__ = "0.1.0"

# Functions import libraries when they are called: these tell their vendors how they are used
# unless they are told not to. Who wants that sets the variables.
for _variable in ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"):
    os.environ.setdefault(_variable, "1")
