"""A PolicyVersion on disk: an adapter folder named by the hash of what it holds.

POLICIES/<id>/manifest.json          written last: format, id, base, adapter, reads, lineage,
                                     created
POLICIES/<id>/adapter_config.json    absent in version 0, the base policy untouched
POLICIES/<id>/adapter_model.safetensors

The id covers the base policy's hash (weights, tokenizer and chat template) and both adapter
files, so equal ids mean equal answers, and nothing that is stored ever changes. `reads` says
what turned questions into tokens in training: tokenizer, chat template and prompt format.
Manifests of format 1 lack it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rlhf_engine.base_files import CODE_SUFFIXES, is_whole
from rlhf_engine.base_policy import base_hash, base_name, template_hash, tokenizer_hash
from rlhf_engine.errors import PolicyVersionError
from rlhf_engine.files import sha256_of, write_json
from rlhf_engine.folders import published
from rlhf_engine.render import format_hash

FORMAT = 2
KNOWN_FORMATS = (1, 2)
MANIFEST = "manifest.json"
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


@dataclass(frozen=True, slots=True)
class PolicyVersionFolder:
    """A stored, verified PolicyVersion; `id` is 16 hexadecimal digits."""

    path: Path
    id: str
    manifest: dict[str, Any]

    @property
    def is_base(self) -> bool:
        """Whether this is version 0: the base policy without an adapter."""
        return self.manifest["adapter"] is None

    @classmethod
    def store(
        cls, adapter_folder: Path | None, base: Path, policies: Path, lineage: dict[str, Any]
    ) -> PolicyVersionFolder:
        """Copy an adapter below `policies` under its id; None stores version 0.

        `lineage` is kept as given (JSON). Storing the same again returns what is there,
        with the lineage of the first time. PolicyVersionError where the adapter cannot be
        read or there is no room; nothing half-written stays.
        """
        adapter = None if adapter_folder is None else _describe(adapter_folder)
        base_entry = {"name": base_name(base), "hash": base_hash(base)}
        version_id = _id_of(base_entry["hash"], adapter)
        target = Path(policies) / version_id
        if not (target / MANIFEST).exists():
            shutil.rmtree(target, ignore_errors=True)
            manifest = {
                "format": FORMAT,
                "id": version_id,
                "base": base_entry,
                "adapter": adapter,
                "reads": None if adapter is None else _reads(base),
                "lineage": lineage,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            _write(target, adapter_folder, manifest)
        return cls.open(target, base)

    @classmethod
    def open(cls, path: Path, base: Path) -> PolicyVersionFolder:
        """Verify a stored version against its manifest and the base policy, loading nothing.

        Raises PolicyVersionError on a missing, changed or foreign file, another base
        policy, tokenizer, chat template or prompt format, or a folder that does not carry its
        own id as its name.
        """
        path = Path(path)
        manifest = _read_manifest(path)
        _check_files(path, manifest)
        _check_reads(path, manifest, Path(base))
        if manifest["base"]["hash"] != base_hash(base):
            raise PolicyVersionError(
                f"policy version {path.name} was trained on base policy "
                f"{manifest['base']['name']} ({manifest['base']['hash'][:12]}), not on {base}; "
                "set the base policy it belongs to, or train again"
            )
        adapter = None if manifest["adapter"] is None else _describe(path)
        found = _id_of(manifest["base"]["hash"], adapter)
        if adapter != manifest["adapter"] or not found == manifest["id"] == path.name:
            raise PolicyVersionError(
                f"policy version {path.name} was changed after it was stored: its files hash to "
                f"{found}; restore it from a backup, or roll back to another version"
            )
        return cls(path, found, manifest)


def _write(target: Path, adapter_folder: Path | None, manifest: dict[str, Any]) -> None:
    try:
        with published(target) as folder:
            for name in (CONFIG, WEIGHTS) if adapter_folder else ():
                shutil.copyfile(Path(adapter_folder or "") / name, folder / name)
            write_json(folder / MANIFEST, manifest)
    except OSError as error:
        raise PolicyVersionError(
            f"policy version {target.name} cannot be stored in {target.parent}: {error}"
        ) from error


def _describe(folder: Path) -> dict[str, Any]:
    """Hashes, rank and targets of an adapter."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        targets = config["target_modules"]
        if not is_whole(folder / WEIGHTS):
            raise PolicyVersionError(f"{folder / WEIGHTS} is cut off or no safetensors file")
        return {
            "sha256": sha256_of(folder / WEIGHTS),
            "config_sha256": sha256_of(folder / CONFIG),
            "rank": int(config["r"]),
            "targets": sorted(targets) if isinstance(targets, list) else targets,
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PolicyVersionError(f"{folder} holds no readable adapter: {error!r}") from error


def _reads(base: Path) -> dict[str, str]:
    return {
        "tokenizer": tokenizer_hash(base),
        "chat template": template_hash(base),
        "prompt format": format_hash(),
    }


def _check_reads(path: Path, manifest: dict[str, Any], base: Path) -> None:
    """Version 0 was trained by others, on prompts of their own: there is nothing to compare."""
    if manifest["adapter"] is None or manifest["format"] == 1:
        return
    for what, found in _reads(base).items():
        if (manifest["reads"] or {}).get(what) != found:
            remedy = (
                "use the release of Heed that trained it"
                if what == "prompt format"
                else f"set base_policy to {manifest['base']['name']} as it was then"
            )
            raise PolicyVersionError(
                f"policy version {path.name} was trained with another {what} than that of {base}; "
                f"{remedy}, or train again"
            )


def _id_of(base: str, adapter: dict[str, Any] | None) -> str:
    parts = [base] if adapter is None else [base, adapter["sha256"], adapter["config_sha256"]]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise PolicyVersionError(
            f"policy version {path.name} is gone from {path.parent}; restore it from a backup"
        )
    try:
        manifest: dict[str, Any] = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        known = manifest["format"] in KNOWN_FORMATS
        _ = manifest["id"], manifest["adapter"], manifest["lineage"]
        _ = manifest["base"]["name"], manifest["base"]["hash"]
        if manifest["format"] != 1:
            _ = dict(manifest["reads"] or {})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PolicyVersionError(f"{path} is no policy version: {error!r}") from error
    if not known:
        raise PolicyVersionError(
            f"{path / MANIFEST} has format {manifest['format']!r}; this program reads "
            f"{' and '.join(map(str, KNOWN_FORMATS))}"
        )
    return manifest


def _check_files(path: Path, manifest: dict[str, Any]) -> None:
    for file in path.rglob("*"):
        if file.is_symlink() or file.suffix.lower() in CODE_SUFFIXES:
            raise PolicyVersionError(
                f"{file} does not belong in a policy version (code, pickle or link); "
                "nothing was loaded from it"
            )
    for name in () if manifest["adapter"] is None else (CONFIG, WEIGHTS):
        if not (path / name).is_file():
            raise PolicyVersionError(f"policy version {path.name} lacks {name}; restore it")
