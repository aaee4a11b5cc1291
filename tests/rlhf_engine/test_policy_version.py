"""Stored policy versions: named by content, verified before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlhf_engine import folders
from rlhf_engine.backbone import Backbone
from rlhf_engine.errors import PolicyVersionError
from rlhf_engine.plan import LoraPlan
from rlhf_engine.policy_version import PolicyVersionFolder
from tests.tiny import tiny_base

LINEAGE = {"run": "run-1", "parent": None, "snapshot": "abc"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter")
    backbone = Backbone.load(base)
    backbone.new_adapter("sft", LoraPlan(rank=4))
    backbone.save_adapter("sft", folder)
    return folder


def test_a_stored_version_opens_under_its_content_hash(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    stored = PolicyVersionFolder.store(adapter, base, tmp_path, LINEAGE)
    opened = PolicyVersionFolder.open(tmp_path / stored.id, base)
    assert opened == stored
    assert len(stored.id) == 16
    assert opened.manifest["lineage"] == LINEAGE
    assert opened.manifest["adapter"]["rank"] == 4
    assert "q_proj" in opened.manifest["adapter"]["targets"]
    assert not opened.is_base
    names = {path.name for path in stored.path.iterdir()}
    assert names == {"manifest.json", "adapter_config.json", "adapter_model.safetensors"}


def test_the_same_content_is_stored_once(base: Path, adapter: Path, tmp_path: Path) -> None:
    first = PolicyVersionFolder.store(adapter, base, tmp_path, LINEAGE)
    again = PolicyVersionFolder.store(adapter, base, tmp_path, {"run": "run-2"})
    assert again == first
    assert [path.name for path in tmp_path.iterdir()] == [first.id]


def test_version_0_is_the_base_policy_alone(base: Path, adapter: Path, tmp_path: Path) -> None:
    zero = PolicyVersionFolder.store(None, base, tmp_path, {})
    assert zero.is_base
    assert zero.id != PolicyVersionFolder.store(adapter, base, tmp_path, {}).id
    assert [path.name for path in zero.path.iterdir()] == ["manifest.json"]


def test_another_base_policy_is_refused(base: Path, adapter: Path, tmp_path: Path) -> None:
    stored = PolicyVersionFolder.store(adapter, base, tmp_path / "policies", {})
    other = tiny_base(tmp_path / "other", seed=5)
    with pytest.raises(PolicyVersionError, match="was trained on base policy"):
        PolicyVersionFolder.open(stored.path, other)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_changed_or_missing_file_is_refused(
    base: Path, adapter: Path, tmp_path: Path, name: str
) -> None:
    stored = PolicyVersionFolder.store(adapter, base, tmp_path, {})
    content = bytearray((stored.path / name).read_bytes())
    at = content.rindex(b"q_proj") if name.endswith("json") else -1
    content[at] ^= 1
    (stored.path / name).write_bytes(content)
    with pytest.raises(PolicyVersionError, match="was changed after it was stored"):
        PolicyVersionFolder.open(stored.path, base)
    (stored.path / name).unlink()
    with pytest.raises(PolicyVersionError, match=f"lacks {name}"):
        PolicyVersionFolder.open(stored.path, base)


@pytest.mark.parametrize("name", ["run.py", "optimizer.pt", "more/weights.bin", "x.PKL"])
def test_files_that_can_run_code_are_refused(
    base: Path, adapter: Path, tmp_path: Path, name: str
) -> None:
    stored = PolicyVersionFolder.store(adapter, base, tmp_path, {})
    (stored.path / name).parent.mkdir(exist_ok=True)
    (stored.path / name).write_bytes(b"x")
    with pytest.raises(PolicyVersionError, match="does not belong"):
        PolicyVersionFolder.open(stored.path, base)


def test_a_version_under_another_name_is_refused(base: Path, adapter: Path, tmp_path: Path) -> None:
    stored = PolicyVersionFolder.store(adapter, base, tmp_path, {})
    stored.path.rename(tmp_path / "0000000000000000")
    with pytest.raises(PolicyVersionError, match="was changed"):
        PolicyVersionFolder.open(tmp_path / "0000000000000000", base)


def test_a_manifest_from_elsewhere_is_refused(base: Path, adapter: Path, tmp_path: Path) -> None:
    stored = PolicyVersionFolder.store(adapter, base, tmp_path, {})
    manifest = stored.path / "manifest.json"
    manifest.write_text(json.dumps({**stored.manifest, "format": 99}))
    with pytest.raises(PolicyVersionError, match="has format 99"):
        PolicyVersionFolder.open(stored.path, base)
    manifest.write_text("{}")
    with pytest.raises(PolicyVersionError, match="is no policy version"):
        PolicyVersionFolder.open(stored.path, base)


def test_an_unreadable_adapter_is_not_stored(base: Path, adapter: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
    (cut / "adapter_model.safetensors").write_bytes(b"short")
    with pytest.raises(PolicyVersionError, match="cut off"):
        PolicyVersionFolder.store(cut, base, tmp_path / "policies", {})
    assert not (tmp_path / "policies").exists()


def test_a_full_disk_leaves_nothing_half_written(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folders, "flush", full)
    with pytest.raises(PolicyVersionError, match="No space left"):
        PolicyVersionFolder.store(adapter, base, tmp_path / "policies", {})
    assert list((tmp_path / "policies").iterdir()) == []
