"""Heed's training and generation engine: plain files in, plain files out.

Public names load their module on first use, so that importing the package (the
service does) leaves torch unloaded.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "EngineError": "errors",
    "BasePolicyError": "errors",
    "PlanError": "errors",
    "SnapshotError": "errors",
    "RunFolderError": "errors",
    "DiskError": "errors",
    "PolicyVersionError": "errors",
    "TrainingError": "errors",
    "SignalError": "errors",
    "GenerationError": "errors",
    "QueueFullError": "errors",
    "Cancelled": "errors",
    "Prompt": "records",
    "PromptPassage": "records",
    "Exchange": "records",
    "Demonstration": "records",
    "Comparison": "records",
    "SamplingSettings": "records",
    "SampledAnswer": "records",
    "SignalInput": "records",
    "StageReport": "records",
    "GateReport": "records",
    "RunPlan": "plan",
    "RunFolder": "run_folder",
    "Progress": "run_folder",
    "freeze": "snapshot",
    "Snapshot": "snapshot",
    "fetch_base": "base_fetch",
    "check_base": "base_check",
    "base_hash": "base_policy",
    "PolicyVersionFolder": "policy_version",
    "Probe": "probes",
    "probes_of": "probes",
    "probe_difference": "probes",
    "RewardSignal": "signals",
    "train": "pipeline",
    "TorchEngine": "torch_engine",
    "sample_answers": "generation",
    "score_answers": "evaluation",
    "score_disagreement": "disagreement",
    "answer_similarity": "similarity",
    "answer_chrf": "similarity",
    "SentenceModelError": "errors",
    "SentenceVectors": "sentence_vectors",
    "check_sentence_model": "sentence_model",
    "sentence_model_id": "sentence_model",
    "measure_speed": "speed",
    "count_prompt_tokens": "prompt_length",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'rlhf_engine' has no public name {name!r}")
    return getattr(importlib.import_module(f"rlhf_engine.{_HOME[name]}"), name)
