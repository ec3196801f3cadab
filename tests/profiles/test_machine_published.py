"""Published machines, and predictions against the MobileNetV4 paper's own figures."""

from statistics import geometric_mean

import pytest

from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.profiles.machine.predict import predict
from mnv4_deploy.profiles.machine.published import published, published_machines
from mnv4_deploy.profiles.records.graph import OpCost
from mnv4_deploy.profiles.records.machine import PublishedMachine


def _machine(ridge_point: float, **known: float) -> PublishedMachine:
    return PublishedMachine("m", "M", "int8", ridge_point, "nowhere", **known)


def test_table_16_of_the_paper():
    points = {m.title: m.ridge_point for m in published_machines() if "Table 16" in m.source}
    assert points == {
        "Pixel 6 CPU": 31.2,
        "Galaxy S23 CPU": 39.7,
        "Pixel 4 DSP": 347.3,
        "Pixel 8 EdgeTPU": 433.8,
    }


def test_every_entry_has_a_source_and_agrees_with_itself():
    assert len({m.name for m in published_machines()}) == len(published_machines())
    for machine in published_machines():
        assert machine.source
        assert machine.title
        assert machine.dtype == "int8"
        assert (machine.peak_macs_per_s is None) == (machine.bytes_per_s is None)
        if machine.peak_macs_per_s and machine.bytes_per_s:
            ratio = machine.peak_macs_per_s / machine.bytes_per_s
            assert ratio == pytest.approx(machine.ridge_point, rel=1e-3)


@pytest.mark.parametrize(
    "name", ["pixel-6-cpu", "Pixel 6 CPU", " PIXEL_6_CPU ", "pixel-6", "Pixel 6"]
)
def test_names_in_any_spelling(name):
    assert published(name).ridge_point == 31.2


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("pixel", "pixel-6-cpu"), ("pixel-8-tpu", "pixel-8-edgetpu"), ("s23", "galaxy-s23-cpu")],
)
def test_unknown_name_names_the_nearest(name, nearest):
    with pytest.raises(UnsupportedError, match=f"nearest is {nearest};"):
        published(name)


@pytest.mark.parametrize("name", ["", "\x1b[31m", "猫" * 500])
def test_absurd_names(name):
    with pytest.raises(UnsupportedError, match="There is no published machine"):
        published(name)


def test_prediction_by_hand():
    costs = [
        OpCost(macs=1000, weight_bytes=10, read_bytes=5, written_bytes=5),
        OpCost(read_bytes=7),
    ]
    found = predict(costs, _machine(30.0, peak_macs_per_s=1e6, bytes_per_s=1e6 / 30))
    # 20 bytes * 30 < 1000 MACs; 7 bytes * 30 > 0 MACs
    assert found.layers == (1000.0, 210.0)
    assert found.memory_bound == (False, True)
    assert (found.macs, found.mac_time) == (1000, 1210.0)
    assert found.seconds == pytest.approx(1210e-6)
    assert found.memory_bound_time_share == pytest.approx(210 / 1210)


def test_prediction_is_relative_without_a_peak_and_counts_macs_at_ridge_point_0():
    costs = [OpCost(macs=100, read_bytes=50, other_ops=10**9), OpCost(macs=7, written_bytes=3)]
    found = predict(costs, _machine(0.0))
    assert found.mac_time == found.macs == 107
    assert found.seconds is None
    assert not any(found.memory_bound)
    nothing = predict([], _machine(31.2))
    assert (nothing.mac_time, nothing.memory_bound_time_share) == (
        0,
        0,
    )


# int8, bytes = weights + input + output of each convolution and linear layer, unfused.
_PAPER = {
    "conv-s": (224, 7.782, 1.61, 18.15),
    "conv-m": (256, 24.941, 1.22, 10.02),
    "conv-l": (384, 87.363, 1.11, 5.94),
    "hybrid-m": (256, 28.220, 1.20, 9.96),
    "hybrid-l": (384, 99.274, 1.10, 5.84),
}


@pytest.mark.parametrize("name", _PAPER)
def test_the_papers_model_time_ratios(name):
    torch = pytest.importorskip("torch")
    from mnv4_deploy.models import zoo

    size, megabytes, on_cpu, on_edgetpu = _PAPER[name]
    with torch.device("meta"):
        model = zoo.build(name).eval()
    costs = _layer_costs(torch, model, size)
    assert sum(c.bytes for c in costs) / 1e6 == pytest.approx(megabytes, abs=0.0006)
    for machine, ratio in (("pixel-6-cpu", on_cpu), ("pixel-8-edgetpu", on_edgetpu)):
        found = predict(costs, published(machine))
        assert found.mac_time / found.macs == pytest.approx(ratio, abs=0.006)
        assert all(found.memory_bound) or machine == "pixel-6-cpu"


def _layer_costs(torch, model, size: int) -> list[OpCost]:
    costs = []

    def count(module, inputs, output):
        per_output = module.weight[0].numel()
        costs.append(
            OpCost(
                macs=output.numel() * per_output,
                weight_bytes=module.weight.numel(),
                read_bytes=inputs[0].numel(),
                written_bytes=output.numel(),
            )
        )

    for module in model.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            module.register_forward_hook(count)
    model(torch.empty(1, 3, size, size, device="meta"))
    return costs


@pytest.mark.parametrize("name", ["pixel-6-cpu", "pixel-4-dsp", "pixel-8-edgetpu"])
def test_the_rate_and_how_far_it_is_right_follow_from_the_papers_latencies(name):
    """Each network predicted from the rate of the others."""
    torch = pytest.importorskip("torch")
    from mnv4_deploy.models import zoo

    machine = published(name)
    rates = []
    for model, milliseconds in machine.published_ms.items():
        with torch.device("meta"):
            costs = _layer_costs(torch, zoo.build(model).eval(), _PAPER[model][0])
        rates.append(predict(costs, machine).mac_time / milliseconds * 1e3)
    assert machine.achieved_macs_per_s == pytest.approx(geometric_mean(rates), rel=0.01)
    took = [geometric_mean(rates[:i] + rates[i + 1 :]) / rate for i, rate in enumerate(rates)]
    assert machine.took_of_predicted == pytest.approx((min(took), max(took)), abs=0.01)
