"""The download of timm checkpoints against a local server that speaks the hub's protocol."""

import hashlib
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from mnv4_deploy.errors import WeightsError
from mnv4_deploy.models import hub, zoo
from mnv4_deploy.models.weights import imagenet_labels, load_reference

TAG = "e3000_r224_in1k"
REPOSITORY = f"timm/mobilenetv4_conv_small_050.{TAG}"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
MAX_WAIT_S, MAX_REQUESTS = 5, 3  # until an unusable hub is given up


@dataclass
class LocalHub:
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""
    status: int = 200


@pytest.fixture
def local_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    state = LocalHub()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            state.requests.append((self.command, self.path))
            parts = self.path.strip("/").split("/")  # owner/name/resolve/revision/file
            content = state.files.get("/".join(parts[:2]))
            if state.status != 200:
                self.send_response(state.status)
            elif content is None or parts[2] != "resolve" or parts[4] != "model.safetensors":
                self.send_response(404)
                self.send_header("X-Error-Code", "RepoNotFound")
                content = None
            else:
                self.send_response(200)
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            body = content if state.status == 200 and content else b""
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_GET = do_HEAD

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", state.url)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield state
    server.shutdown()
    server.server_close()


def small_checkpoint(num_classes: int = 1000) -> tuple[dict[str, torch.Tensor], bytes]:
    torch.manual_seed(0)
    state = zoo.build("conv-s-050", num_classes=num_classes).state_dict()
    return state, save(state)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that are waited between attempts, which pass at once."""
    found: list[float] = []
    monkeypatch.setattr(time, "sleep", found.append)
    return found


def refusal(spec: str = "timm", name: str = "conv-s-050") -> str:
    with pytest.raises(WeightsError) as caught:
        load_reference(name, spec)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_download_records_revision_and_hash_and_uses_the_tags_input(local_hub: LocalHub) -> None:
    state, content = small_checkpoint()
    local_hub.files[REPOSITORY] = content
    reference = load_reference("conv-s-050", "timm")
    own = reference.module.state_dict()
    assert all(torch.equal(own[key], state[key]) for key in state)
    assert reference.source.name == REPOSITORY
    assert reference.source.revision == COMMIT
    assert reference.source.sha256 == hashlib.sha256(content).hexdigest()
    assert reference.labels == imagenet_labels(1000) and len(reference.labels) == 1000
    spec = reference.preprocessing
    assert (spec.height, spec.width, spec.crop_pct) == (224, 224, 0.875)
    assert spec.mean == spec.std == (0.5, 0.5, 0.5)


def test_the_test_size_gets_its_own_crop(local_hub: LocalHub) -> None:
    local_hub.files[REPOSITORY] = small_checkpoint()[1]
    at_test_size = load_reference("conv-s-050", f"timm:{TAG}", size=(256, 256)).preprocessing
    assert (at_test_size.height, at_test_size.crop_pct) == (256, 0.95)
    elsewhere = load_reference("conv-s-050", f"timm:{TAG}", size=(160, 192)).preprocessing
    assert (elsewhere.height, elsewhere.width, elsewhere.crop_pct) == (160, 192, 0.875)


def test_efficientvit_comes_from_its_own_repository(local_hub: LocalHub) -> None:
    state = zoo.build("efficientvit-m0").state_dict()
    # timm's files have the table of offsets as well.
    tables = {
        key.replace("biases", "bias_idxs"): torch.zeros(49, 49, dtype=torch.long)
        for key in state
        if key.endswith("attention_biases")
    }
    local_hub.files["timm/efficientvit_m0.r224_in1k"] = save(state | tables)
    reference = load_reference("efficientvit-m0", "timm")
    own = reference.module.state_dict()
    assert own.keys() == state.keys() and all(torch.equal(own[key], state[key]) for key in own)
    assert reference.source.name == "timm/efficientvit_m0.r224_in1k"
    assert reference.labels == imagenet_labels(1000)
    spec = reference.preprocessing
    assert (spec.height, spec.width, spec.crop_pct) == (224, 224, 0.875)
    assert (spec.mean, spec.interpolation) == ((0.485, 0.456, 0.406), "bicubic")


def test_a_cached_file_serves_offline_and_when_the_hub_is_gone(
    local_hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    local_hub.files[REPOSITORY] = small_checkpoint()[1]
    first = load_reference("conv-s-050", "timm").source
    local_hub.status = 503
    assert load_reference("conv-s-050", "timm").source == first
    local_hub.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert load_reference("conv-s-050", "timm").source == first
    assert not local_hub.requests


def test_offline_without_a_copy(local_hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "set HF_HUB_OFFLINE=0" in refusal()
    assert not local_hub.requests


@pytest.mark.parametrize("status", [401, 500, 503])
def test_a_failing_hub_is_given_up_quickly(
    local_hub: LocalHub, status: int, waits: list[float]
) -> None:
    local_hub.status = status
    message = refusal()
    assert sum(waits) < MAX_WAIT_S and len(local_hub.requests) <= MAX_REQUESTS
    assert local_hub.url in message and "--weights random" in message


@pytest.mark.usefixtures("local_hub")
def test_an_unreachable_hub_is_given_up_quickly(
    monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    message = refusal()
    assert sum(waits) < MAX_WAIT_S
    assert "check the network and HF_ENDPOINT" in message


def test_missing_repository(local_hub: LocalHub) -> None:
    message = refusal()
    assert REPOSITORY in message and local_hub.url in message


def test_damaged_download(local_hub: LocalHub) -> None:
    local_hub.files[REPOSITORY] = small_checkpoint()[1][:-100]
    assert "truncated" in refusal()


def test_foreign_download(local_hub: LocalHub) -> None:
    local_hub.files[REPOSITORY] = small_checkpoint(num_classes=10)[1]
    assert "has 10 classes, not 1000" in refusal()


def test_classes_that_contradict_the_tag_are_refused_before_any_request(
    local_hub: LocalHub,
) -> None:
    with pytest.raises(WeightsError, match="has 1000 classes, not 5"):
        load_reference("conv-s-050", "timm", num_classes=5)
    assert not local_hub.requests


# The table of tags


@pytest.mark.parametrize(
    "tag",
    [
        "e500_r224_in1k",
        "conv_medium.e500_r224_in1k",
        "mobilenetv4_conv_medium.e500_r224_in1k",
        "timm/mobilenetv4_conv_medium.e500_r224_in1k",
    ],
)
def test_tags_may_be_short_or_full(tag: str) -> None:
    assert hub.find("conv-m", tag).hub_id == "timm/mobilenetv4_conv_medium.e500_r224_in1k"


@pytest.mark.parametrize(
    ("model", "tag", "architecture"),
    [
        ("conv-l", "e230_r448_in12k_ft_in1k", "mobilenetv4_conv_aa_large"),
        ("conv-l", "conv_aa_large.e600_r384_in1k", "mobilenetv4_conv_aa_large"),
        ("conv-m", "mobilenetv4_conv_blur_medium.e500_r224_in1k", "mobilenetv4_conv_blur_medium"),
    ],
)
def test_other_architectures_are_refused_by_name(model: str, tag: str, architecture: str) -> None:
    message = refusal(f"timm:{tag}", model)
    assert f"belongs to {architecture}" in message and hub.find(model).tag in message


@pytest.mark.parametrize("tag", ["nope", "conv_large.e500_r224_in1k"])
def test_unknown_tags_list_the_choices(tag: str) -> None:
    message = refusal(f"timm:{tag}", "conv-m")
    assert "e500_r256_in1k" in message and "e180_ad_r384_in12k" in message


def test_untrained_models_say_so() -> None:
    assert "publishes no weights for conv-s-035" in refusal("timm", "conv-s-035")


def test_table_is_consistent() -> None:
    found = [c for name in zoo.names() for c in hub.checkpoints(name)]
    assert len(found) == len({c.hub_id for c in found}) == 31
    for checkpoint in found:
        timm_name = zoo.entry(checkpoint.model).timm_name
        assert checkpoint.hub_id == f"timm/{timm_name}.{checkpoint.tag}"
        if found_side := re.search(r"(?:^|_)r(\d{3})_", checkpoint.tag):
            resolution = int(found_side[1])
            assert checkpoint.input_size == (resolution, resolution)
        is_12k = checkpoint.tag.endswith("_in12k")
        assert checkpoint.num_classes == (11_821 if is_12k else 1_000)
        assert len(imagenet_labels(checkpoint.num_classes)) == checkpoint.num_classes
    for name in zoo.names():
        assert not hub.checkpoints(name) or hub.find(name).num_classes == 1000
