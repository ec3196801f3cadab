"""What a drift says about the device that it ran on: terminal, page and JSON."""

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console

from mnv4_deploy.drift.records import DeviceAgreement
from mnv4_deploy.reports.drift.drift_json import drift_to_dict
from mnv4_deploy.reports.drift.html_report import report_page
from mnv4_deploy.terminal.drift import print_drift
from tests.drift.drift_factory import HOSTILE, make_result
from tests.drift.fake_device import FACTS

EQUAL = DeviceAgreement("candidate", "ai-edge-litert 2.1.6", 32, 320, 0, 0.0, 0, 200.0)
CODES = replace(
    EQUAL,
    differing=17,
    max_error=0.31,
    max_codes=2,
    sqnr_db=41.7,
    first_layer="blocks.1.0.dw_mid",
    explanation="The kernel rounds halves up instead of to even.",
)
FLOATS = replace(EQUAL, differing=320, max_error=2.5e-6, max_codes=None, sqnr_db=118.2)


def result_of(*parity, **facts):
    return replace(
        make_result(),
        device=replace(FACTS, **facts),
        device_runtimes=("ai-edge-litert 2.1.6",),
        parity=parity,
    )


def printed(result):
    text = io.StringIO()
    print_drift(result, console=Console(file=text, width=1000))
    return text.getvalue()


def test_the_device_is_named_with_its_system_processor_and_runtime():
    result = result_of(EQUAL)
    text = printed(result)
    line = next(line for line in text.splitlines() if line.startswith("device"))
    assert "Board <b>5</b>  Debian 12, aarch64 Cortex-A76, ai-edge-litert 2.1.6" in line
    assert "on the device, 12 images/s" in text and "worker" not in text
    page = report_page(result)
    assert "Board &lt;b&gt;5&lt;/b&gt;" in page and "<b>5" not in page
    assert "Debian 12, aarch64 Cortex-A76, ai-edge-litert 2.1.6" in page
    assert "Worker processes" not in page


def test_the_speed_of_an_emulated_processor_is_not_told():
    result = result_of(EQUAL, emulator="qemu-aarch64")
    assert "images/s" not in printed(result) + report_page(result)
    assert drift_to_dict(result)["run"]["images_per_second"] is None


def test_without_a_device_nothing_is_said_of_one():
    result = make_result()
    assert "evice" not in printed(result)
    document = drift_to_dict(result)
    assert document["device"] is None and document["parity"] == []


def test_an_emulator_is_named():
    assert "Cortex-A76, emulated by qemu-aarch64," in printed(result_of(emulator="qemu-aarch64"))


@pytest.mark.parametrize(
    ("parity", "says"),
    [
        (
            (EQUAL,),
            ("On 32 images the outputs of the candidate on Board <b>5</b> are those of this "
            "machine, bit for bit: the figures of the layers hold there too.",),
        ),
        (
            (replace(EQUAL, role="reference"), EQUAL),
            ("the outputs of the reference and candidate on",),
        ),
        (
            (replace(EQUAL, role="reference"), CODES),
            (
                "On 32 images the reference gives the same bits on Board <b>5</b> as on this",
                "On 32 images 17 of 320 outputs of the candidate on Board <b>5</b> are not those "
                "of this machine (by 2 quantization steps at most, SQNR 41.7 dB), from layer "
                "blocks.1.0.dw_mid on: the figures of the layers are those of this machine. The "
                "kernel rounds halves up instead of to even.",
            ),
        ),
        ((FLOATS,), ("(by 2.50e-06 at most, SQNR 118.2 dB): the figures",)),
    ],
)  # fmt: skip
def test_parity_is_a_plain_sentence(parity, says):
    result = result_of(*parity)
    text = printed(result)
    page = report_page(result)
    for sentence in says:
        assert sentence in text
        assert sentence.replace("<b>5</b>", "&lt;b&gt;5&lt;/b&gt;") in page


def test_json_has_the_device_and_the_figures():
    document = json.loads(json.dumps(drift_to_dict(result_of(EQUAL, CODES)), allow_nan=False))
    assert document["device"]["title"] == "Board <b>5</b>"
    assert document["device"]["fingerprint"] == FACTS.fingerprint
    assert document["device"]["used_runtimes"] == ["ai-edge-litert 2.1.6"]
    assert [entry["differing"] for entry in document["parity"]] == [0, 17]
    assert document["parity"][1]["first_layer"] == "blocks.1.0.dw_mid"


def test_a_hostile_device_is_only_text():
    facts = dict.fromkeys(("title", "system", "architecture", "cpu", "emulator"), HOSTILE)
    planted = replace(CODES, first_layer=HOSTILE, explanation=HOSTILE)
    result = replace(result_of(planted, **facts), device_runtimes=(HOSTILE,))
    page = report_page(result)
    plain = report_page(make_result())
    assert page.count("<script") == plain.count("<script")
    for sign in ("\u202e", "\u2028", "\x07"):
        assert page.count(sign) == plain.count(sign)
        assert sign not in printed(result)
    json.dumps(drift_to_dict(result), allow_nan=False)
