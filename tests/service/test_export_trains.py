"""TRL's trainers take the exported files as they are: one step of each on a tiny policy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset
from sqlalchemy import Engine
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl import (
    DPOConfig,
    DPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
)

from service.database import migrate, open_database
from service.export import export_feedback
from tests.service.test_export import give_feedback
from tests.tiny import tiny_base

FORMS = {"jsonl": "json", "parquet": "parquet"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    engine = open_database(f"sqlite:///{tmp_path_factory.mktemp('database')}/heed.db")
    migrate(engine)
    give_feedback(engine, 8)
    return engine


def settings(folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "max_steps": 1,
        "per_device_train_batch_size": 4,
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "max_length": 128,
        "bf16": False,
        "gradient_checkpointing": False,
    }


def policy(base: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(base)


def scorer(base: Path) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("kind", "form", "trainer", "config", "made"),
    [
        ("preference", "parquet", RewardTrainer, RewardConfig, scorer),
        ("preference", "jsonl", DPOTrainer, DPOConfig, policy),
        ("unpaired", "jsonl", KTOTrainer, KTOConfig, policy),
        ("prompt-completion", "parquet", SFTTrainer, SFTConfig, policy),
    ],
)
def test_a_trainer_learns_from_the_file_unchanged(
    database: Engine,
    base: Path,
    tmp_path: Path,
    form: str,
    kind: str,
    trainer: Any,
    config: Any,
    made: Callable[[Path], Any],
) -> None:
    path = tmp_path / f"rows.{form}"
    assert export_feedback(database, kind, path, undo_s=0) == 8
    rows = load_dataset(
        FORMS[form], data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
    )
    student = made(base)
    before = {name: value.clone() for name, value in student.named_parameters()}
    teaching = trainer(
        model=student,
        args=config(**settings(tmp_path / "out")),
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(base),
    )
    teaching.train()
    changed = [name for name, value in student.named_parameters() if (value != before[name]).any()]
    assert changed, "one step changed nothing"
