"""Facts and states from what Android's shell writes.

Forms: getprop of toolbox/toybox; /proc/cpuinfo of arch/arm64/kernel/cpuinfo.c; df of toybox;
dumpsys of ThermalManagerService (Android 10 and later).
"""

import pytest

from mnv4_deploy.device.android.device import parse_cpus
from mnv4_deploy.device.android.facts import parse_abis, parse_facts, parse_free_bytes, parse_state
from mnv4_deploy.errors import ToolchainError

PROPERTIES = """[ro.build.version.release]: [14]
[ro.build.version.sdk]: [34]
[ro.product.cpu.abi]: [arm64-v8a]
[ro.product.cpu.abilist]: [arm64-v8a,armeabi-v7a,armeabi]
[ro.product.manufacturer]: [Google]
[ro.product.model]: [Pixel 7]
[ro.soc.manufacturer]: [Google]
[ro.soc.model]: [GS201]
[ro.hardware]: [panther]
"""
CPUINFO = """processor\t: 0
BogoMIPS\t: 49.15
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm asimddp
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x2
CPU part\t: 0xd05
CPU revision\t: 0
"""
DISK = """Filesystem      1K-blocks    Used Available Use% Mounted on
/dev/block/dm-51 113405196 5004120 108255780   5% /data/user/0
"""
FILES = """/sys/devices/system/cpu/cpu0/topology/core_id=0
/sys/devices/system/cpu/cpu0/topology/physical_package_id=0
/sys/devices/system/cpu/cpu1/topology/core_id=1
/sys/devices/system/cpu/cpu1/topology/physical_package_id=0
"""


def answer(properties=PROPERTIES, cpuinfo=CPUINFO, tool="", files=FILES, disk=DISK) -> str:
    return (
        f"@@@ properties\n{properties}@@@ cpuinfo\n{cpuinfo}@@@ meminfo\n"
        f"MemTotal:        7775780 kB\nMemFree:          229000 kB\n@@@ disk\n{disk}"
        f"@@@ tool\n{tool}@@@ files\n{files}"
    )


def test_facts_of_a_phone():
    facts = parse_facts(
        answer(tool=f"{'0123456789abcdef' * 4}  /data/local/tmp/benchmark_model\n")
    )
    assert facts.title == "Google Pixel 7"
    assert facts.system == "Android 14 (API level 34)"
    assert facts.architecture == "aarch64"
    assert facts.cpu == "Google GS201"
    assert facts.memory_bytes == 7775780 * 1024
    assert facts.free_bytes == 108255780 * 1024
    assert facts.emulator == ""
    assert facts.runtimes == {"benchmark_model": "sha256 0123456789ab"}
    assert facts.python == ""


@pytest.mark.parametrize(
    ("line", "emulator"),
    [
        ("[ro.kernel.qemu]: [1]", "the Android emulator"),
        ("[ro.boot.qemu]: [1]", "the Android emulator"),
        ("[ro.boot.qemu]: [0]", ""),
        ("[ro.hardware]: [ranchu]", "the Android emulator"),
        ("[ro.hardware]: [cutf_cvm]", "Cuttlefish"),
    ],
)
def test_emulators_are_known(line, emulator):
    properties = PROPERTIES.replace("[ro.hardware]: [panther]\n", "") + line + "\n"
    assert parse_facts(answer(properties)).emulator == emulator


def test_fingerprint_changes_with_the_processor_and_the_tool_alone():
    base = parse_facts(answer()).fingerprint
    assert parse_facts(answer(disk="")).fingerprint == base
    later = PROPERTIES.replace("[14]", "[15]").replace("[34]", "[35]")
    assert parse_facts(answer(later)).fingerprint == base
    other = PROPERTIES.replace("GS201", "Tensor G3")
    assert parse_facts(answer(other)).fingerprint != base
    assert parse_facts(answer(tool="ab" * 32 + "  x\n")).fingerprint != base
    assert parse_facts(answer(cpuinfo=CPUINFO.replace(" asimddp", ""))).fingerprint != base


def test_an_older_phone_is_named_by_its_kernel():
    properties = "".join(
        line for line in PROPERTIES.splitlines(True) if "soc" not in line
    ).replace("Pixel 7", "Google Pixel")
    facts = parse_facts(answer(properties, CPUINFO + "Hardware\t: Qualcomm MSM8996\n"))
    assert facts.cpu == "Qualcomm MSM8996"
    assert facts.title == "Google Pixel"


@pytest.mark.parametrize("text", ["", "sh: getprop: not found\n", "@@@ properties\n@@@ cpuinfo\n"])
def test_what_is_no_android_shell_is_an_error(text):
    with pytest.raises(ToolchainError, match="no Android properties"):
        parse_facts(text)


def test_names_of_files_lead_nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "inner"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "inner"))
    (tmp_path / "inner").mkdir()
    hostile = (
        "/sys/../../../evil=x\n/sys/devices/../../../../evil=x\n/sys//evil=x\n"
        f"/sys/a/b=1\n/sys/a/b/c=a folder that is a file\n/sys/{'n' * 300}=x\n"
    )
    assert parse_facts(answer(files=hostile)).title == "Google Pixel 7"
    assert [path.name for path in tmp_path.rglob("*")] == ["inner"]


def test_all_abis_of_a_device():
    assert parse_abis(PROPERTIES) == ("arm64-v8a", "armeabi-v7a", "armeabi")
    assert parse_abis("[ro.product.cpu.abi]: [x86]\n") == ("x86",)
    assert parse_abis("") == ()


@pytest.mark.parametrize(
    ("text", "free"),
    [
        (DISK, 108255780 << 10),
        # Android 5 (toolbox) knows no -k and rounds: not understood rather than guessed.
        ("Filesystem  Size  Used  Free  Blksize\n/data  5.0G  1.2G  3.8G  4096\n", 0),
        ("Filesystem 1K-blocks Used Available Use% Mounted on\n", 0),
        ("df: /data: Permission denied\n", 0),
        ("", 0),
    ],
)
def test_free_space(text, free):
    assert parse_free_bytes(text) == free


THERMAL = """IsStatusOverride: false
ThermalEventListeners:
\tcallbacks: 1
\tkilled: false
Thermal Status: {status}
Cached temperatures:
\tTemperature{{mValue=25.6, mType=0, mName=AP, mStatus=0}}
HAL Ready: true
"""
STATE_FILES = """/sys/class/thermal/thermal_zone0/type=BIG
/sys/class/thermal/thermal_zone1/type=battery
/sys/class/thermal/thermal_zone2/type=cpu
/sys/class/thermal/thermal_zone3/type=cpu
/sys/class/thermal/thermal_zone4/type=unplugged
/sys/class/thermal/thermal_zone0/temp=43210
/sys/class/thermal/thermal_zone1/temp=29900
/sys/class/thermal/thermal_zone2/temp=41000
/sys/class/thermal/thermal_zone3/temp=42000
/sys/class/thermal/thermal_zone4/temp=-273000
/sys/devices/system/cpu/cpufreq/policy0/scaling_governor=sched_pixel
/sys/devices/system/cpu/cpufreq/policy6/scaling_governor=performance
/sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq=300000
/sys/devices/system/cpu/cpufreq/policy6/scaling_cur_freq=2850000
/sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq=1803000
/sys/devices/system/cpu/cpufreq/policy6/scaling_max_freq=2850000
"""


def state(status="0", files=STATE_FILES):
    return parse_state(f"@@@ thermal\n{THERMAL.format(status=status)}@@@ files\n{files}")


def test_clocks_and_heat():
    found = state()
    assert found.governors == {"policy0": "sched_pixel", "policy6": "performance"}
    assert found.clocks_mhz == {"policy0": (300.0, 1803.0), "policy6": (2850.0, 2850.0)}
    assert found.temperatures_c == {
        "BIG": 43.21,
        "battery": 29.9,
        "cpu": 41.0,
        "cpu thermal_zone3": 42.0,
    }
    assert found.throttled == ""


@pytest.mark.parametrize(
    ("status", "word"), [("1", "light"), ("3", "severe"), ("6", "shutdown"), ("9", ""), ("-1", "")]
)
def test_thermal_status_is_said_in_words(status, word):
    expected = f"Android's thermal status is {status}, {word}" if word else ""
    assert state(status).throttled == expected


def test_a_device_that_tells_nothing():
    found = parse_state("@@@ thermal\nCan't find service: thermalservice\n@@@ files\n")
    assert (found.governors, found.clocks_mhz, found.temperatures_c) == ({}, {}, {})
    assert found.throttled == ""


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("0-3,6\n", (0, 1, 2, 3, 6)), ("0", (0,)), ("", ()), ("cat: no", ()), ("0-x", ())],
)
def test_lists_of_cpus(text, cpus):
    assert parse_cpus(text) == cpus
