"""Stored policy versions: named by content, verified before anything is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf_engine import folders, render, serving_adapters
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


def changed_file(name: str, old: str, new: str) -> Callable[[Path, pytest.MonkeyPatch], None]:
    def change(base: Path, _patch: pytest.MonkeyPatch) -> None:
        text = (base / name).read_text(encoding="utf-8")
        assert old in text
        (base / name).write_text(text.replace(old, new), encoding="utf-8")

    return change


def other_system_text(_base: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(render, "SYSTEM", "Answer in verse.")


CHANGES = {
    "tokenizer": changed_file("tokenizer.json", '"single_word": false', '"single_word": true'),
    "chat template": changed_file("chat_template.jinja", "assistant", "helper"),
    "prompt format": other_system_text,
}


@pytest.mark.parametrize("what", CHANGES)
def test_another_reading_of_questions_than_in_training_is_refused(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    own = Path(shutil.copytree(base, tmp_path / "own"))
    stored = PolicyVersionFolder.store(adapter, own, tmp_path / "policies", {})
    assert set(stored.manifest["reads"]) == set(CHANGES)
    CHANGES[what](own, monkeypatch)
    with pytest.raises(PolicyVersionError, match=f"another {what} than .*, or train again"):
        PolicyVersionFolder.open(stored.path, own)


def test_the_base_policy_alone_answers_in_any_prompt_format(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zero = PolicyVersionFolder.store(None, base, tmp_path, {})
    other_system_text(base, monkeypatch)
    assert PolicyVersionFolder.open(zero.path, base) == zero


def test_a_version_of_the_first_format_opens_still(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    stored = PolicyVersionFolder.store(adapter, base, tmp_path, {})
    first = {name: value for name, value in stored.manifest.items() if name != "reads"}
    (stored.path / "manifest.json").write_text(json.dumps({**first, "format": 1}))
    assert PolicyVersionFolder.open(stored.path, base).id == stored.id


@pytest.mark.parametrize("reads", [None, {}, {"tokenizer": "0"}, "x"])
def test_a_manifest_that_tells_too_little_is_refused(
    base: Path, adapter: Path, tmp_path: Path, reads: object
) -> None:
    stored = PolicyVersionFolder.store(adapter, base, tmp_path, {})
    (stored.path / "manifest.json").write_text(json.dumps({**stored.manifest, "reads": reads}))
    with pytest.raises(PolicyVersionError):
        PolicyVersionFolder.open(stored.path, base)


def cut_off(stored: Path) -> None:
    weights = stored / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def linked(stored: Path) -> None:
    weights = stored / "adapter_model.safetensors"
    weights.rename(stored.parent / "elsewhere.safetensors")
    weights.symlink_to(stored.parent / "elsewhere.safetensors")


def pickled(stored: Path) -> None:
    (stored / "adapter_model.bin").write_bytes(b"x")


def gone(stored: Path) -> None:
    shutil.rmtree(stored)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (cut_off, "cut off"),
        (linked, "does not belong"),
        (pickled, "does not belong"),
        (gone, "is gone from .*; restore it"),
    ],
)
def test_a_damaged_version_is_refused_before_any_weights_are_read(
    base: Path,
    adapter: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path], None],
    why: str,
) -> None:
    stored = PolicyVersionFolder.store(adapter, base, tmp_path, {})
    read: list[Path] = []
    monkeypatch.setattr(serving_adapters, "read_adapter", read.append)
    damage(stored.path)
    with pytest.raises(PolicyVersionError, match=why):
        serving_adapters.read_verified(stored.path, base)
    assert read == []


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
