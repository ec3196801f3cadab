import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mnv4_deploy.drift.records import ShardJob
from mnv4_deploy.drift.shards import cut, describe, file_states, identity, joined, usual_shard_size
from mnv4_deploy.drift.store import opened, store_folder
from mnv4_deploy.errors import OutputError
from mnv4_deploy.models.source import ZooSource
from mnv4_deploy.tasks.classification.task import Classification
from mnv4_deploy.tasks.rows import ImageRows
from tests.drift.fake_shards import FakeRunner, make_dataset, make_job


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def shard_and_result(tmp_path):
    dataset = make_dataset(tmp_path / "images", 20, {11: "bad"})
    shard = cut(dataset, 10)[1]
    return shard, FakeRunner(make_job(tmp_path)).run(shard)


def arrays(rows: ImageRows) -> dict[str, np.ndarray]:
    return {"index": rows.index, "sha256": rows.sha256, **rows.columns}


def equal(first: ImageRows, second: ImageRows) -> bool:
    mine, theirs = arrays(first), arrays(second)
    return mine.keys() == theirs.keys() and all(
        mine[name].tobytes() == theirs[name].tobytes()
        and mine[name].dtype == theirs[name].dtype
        and mine[name].shape == theirs[name].shape
        for name in mine
    )


@pytest.mark.parametrize(
    ("images", "size"), [(50_000, 256), (32_768, 256), (12_800, 100), (100, 8), (1, 8)]
)
def test_shard_size_gives_every_worker_work(images, size):
    assert usual_shard_size(images) == size


@pytest.mark.parametrize("size", [1, 3, 7, 50, None])
def test_cut_has_every_image_once_and_in_order(tmp_path, size):
    dataset = make_dataset(tmp_path, 50)
    shards = cut(dataset, size)
    assert tuple(image for shard in shards for image in shard.images) == dataset.images
    assert [shard.index for shard in shards] == list(range(len(shards)))
    assert all(dataset.images[shard.start] == shard.images[0] for shard in shards)


def test_joined_restores_the_order(tmp_path):
    dataset = make_dataset(tmp_path / "images", 23, {3: "bad", 20: "bad"})
    runner = FakeRunner(make_job(tmp_path))
    whole = runner.run(cut(dataset, 23)[0])
    parts = [runner.run(shard) for shard in reversed(cut(dataset, 4))]
    results, skipped = joined(parts)
    assert equal(results, whole.rows)
    assert skipped == whole.skipped
    assert [image.index for image in skipped] == [3, 20]


class TestIdentity:
    @pytest.fixture
    def parts(self, tmp_path):
        dataset = make_dataset(tmp_path / "images", 5)
        return make_job(tmp_path), dataset, file_states(dataset), 8, ("cpu",)

    def test_is_the_same_wherever_the_files_lie(self, parts):
        job, dataset, states, *rest = parts
        moved = replace(
            dataset,
            root="/elsewhere",
            images=tuple(replace(i, path=f"/elsewhere/{i.name}") for i in dataset.images),
        )
        elsewhere = ShardJob(job.task, replace(job.reference, path="/x.onnx"), job.candidate)
        assert identity(elsewhere, moved, states, *rest) == identity(*parts)

    def test_changes_with_an_image(self, parts):
        job, dataset, _, *rest = parts
        path = dataset.images[3].path
        before = os.stat(path)  # noqa: PTH116
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        assert identity(job, dataset, file_states(dataset), *rest) != identity(*parts)

    def test_changes_with_a_label_a_name_and_the_order(self, parts):
        job, dataset, states, *rest = parts
        first, *others = dataset.images
        for images in (
            (replace(first, truth=4), *others),
            (replace(first, name="other"), *others),
            (*others, first),
        ):
            assert identity(job, replace(dataset, images=images), states, *rest) != identity(
                *parts
            )

    def test_changes_with_the_task(self, parts):
        job, *rest = parts

        class Other(Classification):
            pass

        assert identity(replace(job, task=Other()), *rest) != identity(*parts)

    def test_changes_with_a_subject_the_size_and_the_processor(self, parts):
        job, dataset, states, size, cpus = parts
        spec = replace(job.candidate.preprocessing, crop_pct=0.9)
        variants = [
            (replace(job, candidate=replace(job.candidate, sha256="0")), size, cpus),
            (replace(job, candidate=replace(job.candidate, preprocessing=spec)), size, cpus),
            (
                replace(job, candidate=replace(job.candidate, source=ZooSource("conv-s"))),
                size,
                cpus,
            ),
            (job, 9, cpus),
            (job, size, ("cpu", "another")),
        ]
        found = {identity(j, dataset, states, s, c) for j, s, c in variants}
        assert len(found | {identity(*parts)}) == len(variants) + 1

    def test_changes_with_the_runtime(self, parts, monkeypatch):
        before = identity(*parts)
        monkeypatch.setattr("importlib.metadata.version", lambda _name: "9.9.9")
        assert identity(*parts) != before


def aged(folder, days):
    then = time.time() - days * 24 * 3600
    os.utime(folder, (then, then))


class TestStore:
    def test_gives_back_what_was_saved(self, tmp_path, shard_and_result):
        shard, result = shard_and_result
        with opened(tmp_path / "store", "a" * 64) as store:
            assert store.load(shard) is None
            store.save(shard, result)
            loaded = store.load(shard)
        assert equal(loaded.rows, result.rows)
        assert loaded.skipped == result.skipped
        assert len(loaded.skipped) == 1

    def test_holds_no_pickle(self, tmp_path, shard_and_result):
        shard, result = shard_and_result
        with opened(tmp_path / "store", "a" * 64) as store:
            store.save(shard, result)
            (path,) = store.folder.glob("*.npz")
        with np.load(path, allow_pickle=False) as file:
            columns = {f"column {name}" for name in result.rows.columns}
            assert set(file) == {"index", "sha256", "facts", "seal", *columns}
            names, skipped, _ = json.loads(file["facts"].tobytes())
            assert names == list(result.rows.columns)
            assert skipped[0]["index"] == shard.start + 1

    def test_any_damage_means_not_there(self, tmp_path, shard_and_result):
        """Every byte of the file in turn, and every length: the content or None, never else."""
        shard, result = shard_and_result
        with opened(tmp_path / "store", "a" * 64) as store:
            store.save(shard, result)
            (path,) = store.folder.glob("*.npz")
            whole = path.read_bytes()
            refused = 0
            for position in range(0, len(whole), 7):
                damaged = bytearray(whole)
                damaged[position] ^= 0xFF
                path.write_bytes(damaged)
                loaded = store.load(shard)
                refused += loaded is None
                assert loaded is None or (
                    equal(loaded.rows, result.rows) and loaded.skipped == result.skipped
                )
            assert refused > 100
            for length in range(0, len(whole), 97):
                path.write_bytes(whole[:length])
                assert store.load(shard) is None

    def test_refuses_what_another_run_or_hand_wrote(self, tmp_path, shard_and_result):
        shard, result = shard_and_result
        with (
            opened(tmp_path / "store", "a" * 64) as mine,
            opened(tmp_path / "store", "b" * 64) as other,
        ):
            other.save(shard, result)
            (foreign,) = other.folder.glob("*.npz")
            shutil.copy(foreign, mine.folder)
            assert mine.load(shard) is None
            mine.save(shard, result)
            (path,) = mine.folder.glob("*.npz")
            with np.load(path) as file:
                forged = {name: file[name].copy() for name in file}
            column = next(name for name in forged if name.startswith("column "))
            forged[column] = forged[column][::-1] + 1
            np.savez(path, **forged)
            assert mine.load(shard) is None

    def test_refuses_rows_of_images_that_have_other_bytes(self, tmp_path, shard_and_result):
        """Also where size and date stay; row 1 was skipped and may be mended since."""
        shard, result = shard_and_result
        with opened(tmp_path / "store", "a" * 64) as store:
            store.save(shard, result)
            for image in shard.images:
                path = Path(image.path)
                before, content = path.stat(), path.read_bytes()
                path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
                os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
                assert store.load(shard) is None
                path.write_bytes(content)
                assert store.load(shard) is not None

    def test_refuses_another_shards_rows(self, tmp_path, shard_and_result):
        shard, result = shard_and_result
        with opened(tmp_path / "store", "a" * 64) as store:
            store.save(shard, replace(result, index=shard.index + 1))
            assert (
                store.load(replace(shard, index=shard.index + 1, start=shard.start + 10)) is None
            )

    def test_second_run_is_told_and_changes_nothing(self, tmp_path, shard_and_result):
        shard, result = shard_and_result
        code = (
            "import sys, pathlib\n"
            "from mnv4_deploy.drift.store import opened\n"
            "with opened(pathlib.Path(sys.argv[1]), 'a' * 64):\n"
            "    print('held', flush=True); sys.stdin.read()\n"
        )
        holder = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "store")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            assert holder.stdout.readline() == b"held\n"
            with (
                pytest.raises(OutputError, match="Another run of the same comparison"),
                opened(tmp_path / "store", "a" * 64),
            ):
                pass
            with opened(tmp_path / "store", "b" * 64) as store:  # another comparison may
                store.save(shard, result)
                assert store.load(shard) is not None
        finally:
            holder.kill()
            holder.wait()
        with opened(tmp_path / "store", "a" * 64) as store:  # the lock went with its holder
            assert store.load(shard) is None

    def test_leaves_nothing_when_removed(self, tmp_path, shard_and_result):
        shard, result = shard_and_result
        with opened(tmp_path / "out" / "store", "a" * 64) as store:
            store.save(shard, result)
            store.remove()
        assert not (tmp_path / "out" / "store").exists()

    def test_clears_away_halves_and_what_was_given_up(self, tmp_path, shard_and_result):
        shard, result = shard_and_result
        base = tmp_path / "store"
        with opened(base, "a" * 64) as store:
            store.save(shard, result)
            half = store.folder / ".000001.npz.x7"
            half.write_bytes(b"PK")
        for name in ("b" * 32, "c" * 32):
            with opened(base, name) as store:
                store.save(shard, result)
        aged(base / ("b" * 32), 31)
        aged(base / ("c" * 32), 29)
        with opened(base, "a" * 64) as store:
            assert store.load(shard) is not None
            assert not half.exists()
        assert not (base / ("b" * 32)).exists()
        assert (base / ("c" * 32) / "000001.npz").exists()

    def test_clears_away_nothing_that_is_not_its_own(self, tmp_path, shard_and_result):
        """By name, by mark, and within a folder of its own file by file."""
        shard, result = shard_and_result
        base = tmp_path / "store"
        for name in ("b" * 32, "c" * 32):
            with opened(base, name) as store:
                store.save(shard, result)
                mark = store.folder / "drift-shards.json"
        named, marked = base / "thesis", base / ("d" * 32)
        for folder in (named, marked, base / ("b" * 32)):
            folder.mkdir(exist_ok=True)
            (folder / "chapter1.tex").write_text("the user's")
        shutil.copy(mark, named)
        (base / ("e" * 32)).symlink_to(tmp_path)
        for folder in (named, marked, base / ("b" * 32), base / ("c" * 32)):
            aged(folder, 400)
        with opened(base, "a" * 64):
            pass
        assert sorted(path.name for path in base.iterdir()) == [
            *("b" * 32, "d" * 32, "e" * 32, "thesis")
        ]
        assert sorted(path.name for path in named.iterdir()) == [
            *("chapter1.tex", "drift-shards.json")
        ]
        for folder in (marked, base / ("b" * 32)):
            assert [path.name for path in folder.iterdir()] == ["chapter1.tex"]

    def test_a_run_at_work_is_not_cleared_away(self, tmp_path, shard_and_result):
        shard, result = shard_and_result
        base = tmp_path / "store"
        with opened(base, "b" * 64) as slow:
            slow.save(shard, result)
            aged(slow.folder, 31)
            with opened(base, "a" * 64):
                pass
            assert slow.load(shard) is not None

    def test_nothing_stays_where_nothing_was_kept(self, tmp_path):
        with pytest.raises(KeyboardInterrupt), opened(tmp_path / "new" / "store", "a" * 64):
            raise KeyboardInterrupt
        assert list(tmp_path.iterdir()) == []

    def test_folder_that_cannot_be_written(self, tmp_path):
        (tmp_path / "file").write_text("")
        with (
            pytest.raises(OutputError, match="MNV4_DEPLOY_CACHE"),
            opened(tmp_path / "file" / "store", "a" * 64),
        ):
            pass

    @pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")  # noqa: PTH110
    def test_full_disk(self, tmp_path, shard_and_result, monkeypatch):
        shard, result = shard_and_result

        def full(*_args, **_kwargs):
            with open("/dev/full", "w", buffering=1) as file:  # noqa: PTH123
                file.write("x\n")

        monkeypatch.setattr(np, "savez", full)
        with opened(tmp_path / "store", "a" * 64) as store:
            with pytest.raises(OutputError, match="is full"):
                store.save(shard, result)
            assert list(store.folder.glob("*.npz")) == []
        assert not (tmp_path / "store").exists()

    def test_is_in_out_or_in_the_users_cache(self, tmp_path, monkeypatch):
        monkeypatch.setenv("MNV4_DEPLOY_CACHE", str(tmp_path / "cache"))
        assert store_folder(None) == tmp_path / "cache" / "drift"
        assert store_folder(tmp_path).parent == tmp_path
        assert store_folder(tmp_path).name.startswith(".")


def test_describe_escapes_names(tmp_path):
    dataset = make_dataset(tmp_path, 2)
    image = replace(dataset.images[0], name="\x1b[31m.jpg")
    text = describe(cut(replace(dataset, images=(image, dataset.images[1])), 2)[0])
    assert text == "images 0 to 1 ('\\x1b[31m.jpg' … '00001.txt')"
