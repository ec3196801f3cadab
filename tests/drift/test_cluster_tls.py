"""Against real schedulers with TLS and certificates of a CA made here; Dask's own settings."""

import gc
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack

import pytest

pytest.importorskip("distributed")
if shutil.which("openssl") is None:
    pytest.skip("no openssl command to make certificates with", allow_module_level=True)

import dask
import numpy as np
from PIL import Image

from mnv4_deploy.cli import app as cli
from mnv4_deploy.drift.cluster import connection as cluster_connection
from mnv4_deploy.drift.cluster import executor as cluster
from mnv4_deploy.drift.run import run_images
from mnv4_deploy.errors import InputError, ToolchainError
from tests.drift.fake_shards import FakeRunner, make_dataset, make_job, ran
from tests.drift.test_cluster import (  # noqa: F401
    Notes,
    a_scheduler,
    a_worker,
    count,
    nobody_answers,
    patient,
    process,
)
from tests.drift.test_run import expected
from tests.drift.test_shards import equal
from tests.time_limit import wait_until

CA = "distributed.comm.tls.ca-file"
CERT = "distributed.comm.tls.client.cert"
KEY = "distributed.comm.tls.client.key"
_EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@pytest.fixture(scope="module", autouse=True)
def only_ours():
    """What there is already is not looked at again in every collection: half a second each."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Pairs NAME.pem and NAME.key, all but the stranger's signed by "ca"."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    for ca in ("ca", "other"):
        files = ("-keyout", f"{ca}.key", "-out", f"{ca}.pem")
        openssl("req", "-x509", *_EC, "-days", "2", "-subj", f"/CN={ca}", *files)
    for name, ca, days in (
        ("node", "ca", "2"),
        ("me", "ca", "2"),
        ("stranger", "other", "2"),
        ("expired", "ca", "0"),
    ):
        openssl("req", *_EC, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", "csr")
        signed_by = ("-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-CAcreateserial")
        openssl("x509", "-req", "-in", "csr", *signed_by, "-days", days, "-out", f"{name}.pem")
    locked = ("-aes256", "-passout", "pass:secret", "-out", "locked.key")
    openssl("pkey", "-in", "me.key", *locked)
    (folder / "both.pem").write_text(
        (folder / "me.key").read_text() + (folder / "me.pem").read_text()
    )
    (folder / "damaged.pem").write_text((folder / "me.pem").read_text().replace("M", "?"))
    (folder / "text").write_text("no certificate")
    return folder


@pytest.fixture(scope="module")
def options(certificates):
    """Of a scheduler's and a worker's command."""
    files = (f"--tls-{what}" for what in ("ca-file", "cert", "key"))
    names = ("ca.pem", "node.pem", "node.key")
    return [
        text
        for file, name in zip(files, names, strict=True)
        for text in (file, str(certificates / name))
    ]


@pytest.fixture
def settings(certificates):
    """Set Dask's to what has these names."""

    def settings(ca="ca.pem", cert="me.pem", key="me.key", **more):
        values = {CA: ca, CERT: cert, KEY: key}
        files = {name: str(certificates / value) for name, value in values.items() if value}
        return {**dict.fromkeys(values), **files, **more}

    return settings


@pytest.fixture(scope="module")
def secure(certificates, options, tmp_path_factory):
    """The address of a scheduler with one worker."""
    folder = tmp_path_factory.mktemp("secure")
    with (
        a_scheduler(folder, "--protocol", "tls", *options) as (address, _),
        a_worker(address, "--local-directory", str(folder), *options),
    ):
        paths = (certificates / name for name in ("ca.pem", "me.pem", "me.key"))
        with dask.config.set(dict(zip((CA, CERT, KEY), map(str, paths), strict=True))):
            wait_until(lambda: count(address) == 1)
        yield address


@pytest.fixture(scope="module")
def others(certificates, tmp_path_factory):
    """Addresses of schedulers that a client cannot use, by what is the matter."""
    file = tmp_path_factory.mktemp("others") / "addresses.json"
    with process("tests.drift.tls_schedulers", str(certificates), str(file)):
        wait_until(lambda: file.exists() and file.read_text().endswith("}"))
        yield json.loads(file.read_text())


@pytest.fixture
def run(tmp_path):
    def run(address, **options):
        job, dataset = make_job(tmp_path), make_dataset(tmp_path / "images", 20, {11: "bad"})
        store = tmp_path / "s"
        return run_images(job, dataset, cluster=address, store=store, runner=FakeRunner, **options)

    return run


@pytest.fixture
def refused(run, tmp_path, capfd):
    """What the user is told, having checked that nothing else comes of it."""

    def refused(address, settings):
        before = set(threading.enumerate())
        with dask.config.set(settings), pytest.raises(InputError) as caught:
            run(address)
        assert caught.value.exit_code == 2
        gc.collect()  # what is left behind complains when it is collected
        assert set(threading.enumerate()) <= before
        assert capfd.readouterr() == ("", "")
        assert not (tmp_path / "s").exists()
        told = str(caught.value)
        assert "\n" not in told and told.endswith(".")
        return told

    return refused


@pytest.mark.parametrize("source", ["files", "variables"])
def test_same_bits(source, tmp_path, run, secure, certificates, monkeypatch):
    """With Dask's settings from where a user has them."""
    ca, cert, key = (str(certificates / name) for name in ("ca.pem", "me.pem", "me.key"))
    variables = {
        "DASK_DISTRIBUTED__COMM__TLS__CA_FILE": ca,
        "DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT": cert,
        "DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY": key,
    }
    folder = tmp_path / "dask"
    folder.mkdir()
    if source == "files":
        variables = {}
        tls = f"{{ca-file: {ca}, client: {{cert: {cert}, key: {key}}}}}"
        (folder / "distributed.yaml").write_text(f"distributed: {{comm: {{tls: {tls}}}}}")
    progress = Notes()
    user = dask.config.collect([str(folder)], variables)
    with dask.config.set(dask.config.merge(dask.config.config, user)):
        found = run(secure, shard_size=5, progress=progress)
    whole = expected(tmp_path, make_dataset(tmp_path / "images", 20, {11: "bad"}), monkeypatch)
    assert equal(found.rows, whole.rows)
    assert found.skipped == whole.skipped
    assert sorted(ran(make_job(tmp_path))) == [0, 1, 2, 3]
    assert progress.notes == []


def test_key_in_the_certificates_file_and_text_for_paths(secure, settings, certificates):
    with dask.config.set(settings(cert="both.pem", key="")):
        assert count(secure) == 1
    texts = {
        setting: (certificates / name).read_text()
        for setting, name in ((CA, "ca.pem"), (CERT, "me.pem"), (KEY, "me.key"))
    }
    with dask.config.set(texts):
        assert count(secure) == 1


def test_command(secure, settings, tmp_path, monkeypatch, capfd):
    """With a real runtime: the same figures as here, and one sentence for what is missing."""
    pytest.importorskip("onnxruntime")
    from tests.test_cli_drift import _network

    monkeypatch.setenv("MNV4_DEPLOY_CACHE", str(tmp_path / "cache"))
    right, blind = tmp_path / "right.onnx", tmp_path / "blind.onnx"
    pair = ("--reference", _network(right), "--candidate", _network(blind, blind_to="blue"))
    (tmp_path / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for number in range(16):
        pixels = rng.integers(0, 255, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{number}.png")

    def drift(*arguments):
        common = (*pair, "--data", tmp_path / "pictures", "--layer-images", "0", "--json")
        with pytest.raises(SystemExit) as exit_:
            cli.main(["drift", *map(str, common), *arguments])
        return exit_.value.code or 0, *capfd.readouterr()

    with dask.config.set(settings()):
        code, there, told = drift("--cluster", secure)
    assert (code, told) == (0, "")
    here = drift("--workers", "1")[1]
    assert json.loads(there)["output"] == json.loads(here)["output"]

    code, printed, told = drift("--cluster", secure)
    assert (code, json.loads(printed)["error"]["exit_code"], told.count("\n")) == (2, 2, 1)
    assert CA in told and CERT in told


@pytest.mark.parametrize(
    ("given", "unset"),
    [
        ({"ca": "", "cert": "", "key": ""}, {CA, CERT, KEY}),
        ({"ca": ""}, {CA}),
        ({"cert": ""}, {CERT}),
        ({"cert": "", "key": ""}, {CERT, KEY}),
    ],
)
def test_settings_that_are_not_set(given, unset, refused, settings):
    told = refused("tls://127.0.0.1:1", settings(**given))
    assert {setting for setting in (CA, CERT, KEY) if setting in told} == unset
    assert ("DASK_DISTRIBUTED__COMM__TLS__CA_FILE" in told) == (CA in unset)


@pytest.mark.parametrize(
    ("given", "setting", "words"),
    [
        ({"ca": "nowhere.pem"}, CA, "nowhere.pem"),
        ({"cert": "nowhere.pem"}, CERT, "nowhere.pem"),
        ({"key": "nowhere.key"}, KEY, "nowhere.key"),
        ({"ca": "."}, CA, "Is a directory"),
        ({"ca": "text"}, CA, "text"),
        ({"cert": "text"}, CERT, "text"),
        ({"cert": "me.key"}, CERT, "me.key"),
        ({"key": "text"}, KEY, "text"),
        ({"key": ""}, KEY, "me.pem"),
        ({"key": "locked.key"}, KEY, "passphrase"),
        ({"key": "node.key"}, KEY, "key values mismatch"),
        ({"ca": "damaged.pem"}, CA, "cannot be used"),
        ({"cert": "damaged.pem"}, CERT, "cannot be used"),
        ({"distributed.comm.tls.ciphers": "none"}, "distributed.comm.tls.ciphers", "cipher"),
        ({"distributed.comm.tls.min-version": 1}, "distributed.comm.tls.min-version", "1.2"),
    ],
)
def test_settings_that_cannot_be_used(given, setting, words, refused, settings):
    told = refused("tls://127.0.0.1:1", settings(**given))
    assert f"{setting} " in told or f"{setting}=" in told
    assert words in told


def test_dask_reads_the_files_without_tls_too(refused, settings):
    told = refused("tcp://127.0.0.1:1", settings(ca="nowhere.pem"))
    assert CA in told and "nowhere.pem" in told


def test_configuration_that_is_no_yaml(tmp_path):
    (tmp_path / "dask.yaml").write_text("distributed: [")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from mnv4_deploy.drift.cluster.connection import connected; "
            "from mnv4_deploy.errors import InputError\n"
            "try: connected('tls://127.0.0.1:1').__enter__()\n"
            "except InputError as error: print(error)",
        ],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "DASK_CONFIG": str(tmp_path),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(tmp_path / "dask.yaml") in done.stdout
    assert done.stdout.count("\n") == 1


def test_settings_that_are_not_used_do_not_matter(others, settings):
    """Dask wants both a CA and a certificate, or takes neither."""
    with dask.config.set(settings(ca="", cert="nowhere.pem")):
        assert count(others["plain"]) == 0


def test_tcp_to_a_scheduler_with_tls(refused, secure, settings):
    address = secure.replace("tls", "tcp")
    for given in (settings(ca="", cert="", key=""), settings()):
        assert f"give {secure}." in refused(address, given)


def test_tls_to_a_scheduler_without(refused, others, settings):
    plain = others["plain"]
    told = refused(plain.replace("tcp", "tls"), settings())
    assert f"give {plain}." in told
    assert "--protocol tls" in told
    assert count(plain) == 0  # it took no harm


def test_encryption_required(refused, others, secure, settings):
    required = {"distributed.comm.require-encryption": True}
    told = refused(others["plain"], settings(**required))
    assert "distributed.comm.require-encryption" in told
    assert f"give {others['plain'].replace('tcp', 'tls')}." in told
    with dask.config.set(settings(**required)):
        assert count(secure) == 1


@pytest.mark.parametrize("version", [None, 1.2])  # 1.3 refuses a client later than 1.2 does
def test_certificates_that_are_not_accepted(version, refused, secure, others, settings):
    most = {"distributed.comm.tls.max-version": version}
    told = refused(others["other CA"], settings(**most))
    assert CA in told and CERT not in told
    told = refused(others["expired"], settings(**most))
    assert "renew it" in told and "expired" in told
    told = refused(secure, settings(cert="stranger.pem", key="stranger.key", **most))
    assert CERT in told and "unknown ca" in told and CA not in told
    told = refused(secure, settings(cert="expired.pem", key="expired.key", **most))
    assert CERT in told and "expired" in told


def test_no_version_of_tls_in_common(refused, others, settings):
    told = refused(others["TLS 1.3"], settings(**{"distributed.comm.tls.max-version": 1.2}))
    assert "distributed.comm.tls.min-version" in told


@pytest.mark.usefixtures("nobody_answers")
@pytest.mark.parametrize("address", ["tls://127.0.0.1:1", "tls://127.0.0.1", "tls://x:99999"])
def test_nobody_there(address, refused, settings):
    told = refused(address, settings())
    assert repr(address) in told
    assert "--tls-ca-file, --tls-cert and --tls-key" in told


@pytest.mark.usefixtures("nobody_answers")
@pytest.mark.parametrize("scheme", ["tls", "tcp"])
def test_silence(scheme, refused, settings):
    with socket.create_server(("127.0.0.1", 0)) as server:
        told = refused(f"{scheme}://127.0.0.1:{server.getsockname()[1]}", settings())
    assert "No Dask scheduler answers" in told


def test_no_workers(run, others, settings, monkeypatch):
    """The sentence names what a worker needs."""
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.1)
    with dask.config.set(settings()), pytest.raises(ToolchainError) as caught:
        run(others["TLS 1.3"])
    assert f"'dask worker {others['TLS 1.3']}'" in str(caught.value)
    assert "--tls-ca-file, --tls-cert and --tls-key" in str(caught.value)


@pytest.mark.parametrize(
    ("address", "exposed"),
    [
        ("tcp://127.0.0.1:8786", False),
        ("127.8.9.1:8786", False),
        ("tcp://localhost:8786", False),
        ("tcp://[::1]:8786", False),
        ("inproc://192.0.2.1/1/1", False),
        ("tls://192.0.2.1:8786", False),
        ("tcp://192.0.2.1:8786", True),
        ("192.0.2.1:8786", True),
        ("tcp://[2001:db8::1]:8786", True),
        ("ws://192.0.2.1:8786", True),
    ],
)
def test_who_can_reach_it(address, exposed):
    assert cluster_connection.is_exposed(address) == exposed


def test_a_note_where_others_can_run_code(tmp_path, run):
    """0.0.0.0 leads here and is no address of this machine alone."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    with ExitStack() as stack:
        address, _ = stack.enter_context(a_scheduler(folder))
        stack.enter_context(a_worker(address, "--local-directory", str(folder)))
        wait_until(lambda: count(address) == 1)
        progress = Notes()
        open_to_all = address.replace("127.0.0.1", "0.0.0.0")
        assert len(run(open_to_all, progress=progress).rows) == 19
        (note,) = progress.notes
        assert open_to_all in note and "tls://" in note
        progress = Notes()
        assert len(run(address, progress=progress).rows) == 19
        assert progress.notes == []
