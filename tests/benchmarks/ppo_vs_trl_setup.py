"""What both sides of ppo_vs_trl work on: a base policy, prompts, and PPO's settings."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf_engine import Comparison, Demonstration, Prompt, RunFolder, Snapshot, fetch_base, freeze
from rlhf_engine.base_policy import load_tokenizer
from rlhf_engine.plan import LoraPlan, PpoPlan, RewardPlan, RunPlan, SftPlan
from rlhf_engine.render import prompt_ids
from rlhf_engine.speed import faster_dtype
from tests.benchmarks.ppo_vs_trl_measured import TrlJob
from tests.tiny import SENTENCES, tiny_base, tiny_tokenizer

ROOT = Path(__file__).parents[2]
SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
BASE_CACHE = Path.home() / ".cache" / "heed" / "base"
SEED = 17


@dataclass(frozen=True)
class Size:
    """How much is done. Lengths are in tokens; `batch` answers are sampled, scored and then
    learned from `epochs` times, in one optimizer step each time."""

    prompt_tokens: tuple[int, int]
    answer_tokens: int
    batch: int
    batches: int
    rounds: int
    rows: int
    epochs: int = 4
    temperature: float = 0.7
    learning_rate: float = 3e-6


# Prompts to answers as 6 to 1, like the limits of a plan (384 and 64 tokens).
SIZES = {
    "tiny": Size(prompt_tokens=(48, 64), answer_tokens=8, batch=8, batches=2, rounds=1, rows=4),
    "mid": Size(prompt_tokens=(160, 224), answer_tokens=32, batch=8, batches=2, rounds=2, rows=4),
    "smollm2": Size(
        prompt_tokens=(160, 224), answer_tokens=32, batch=8, batches=2, rounds=2, rows=4
    ),
}

LORA = LoraPlan(rank=16, alpha=32)


@dataclass(frozen=True)
class Setup:
    """Everything on disk under `folder`, ready for both sides."""

    folder: Path
    size: Size
    base: Path
    dtype: str
    threads: int
    reward_depth: float = 1.0
    """Share of the layers that our reward model reads through; TRL's reads through all."""

    def prompts(self, answers_per_prompt: int) -> list[Prompt]:
        """Different prompts, as many as the batches need."""
        tokenizer = load_tokenizer(self.base)
        draw = random.Random(f"{SEED}/{answers_per_prompt}")
        words = " ".join(SENTENCES).split()
        found = []
        for number in range(self.size.batches * self.size.batch // answers_per_prompt):
            length = draw.randint(*self.size.prompt_tokens)
            prompt = Prompt(f"p{number}", f"Question {number}:")
            while len(prompt_ids(tokenizer, prompt)) < length:
                prompt = replace(prompt, question=f"{prompt.question} {draw.choice(words)}")
            found.append(prompt)
        return found

    def prompt_tokens(self, answers_per_prompt: int) -> list[list[int]]:
        """The same prompts as both sides read them."""
        tokenizer, limit = load_tokenizer(self.base), self.most_prompt_tokens
        return [prompt_ids(tokenizer, each, limit) for each in self.prompts(answers_per_prompt)]

    @property
    def most_prompt_tokens(self) -> int:
        """Room for a last word that goes beyond the wanted length."""
        return self.size.prompt_tokens[1] + 16

    def environment(self) -> dict[str, str]:
        """Both sides' environment variables."""
        threads = {"OMP_NUM_THREADS": str(self.threads), "GOMP_SPINCOUNT": "10000"}
        return os.environ | threads | {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}


def prepare(
    folder: Path, name: str, base: Path | None, dtype: str, threads: int, reward_depth: float = 1.0
) -> Setup:
    """Make or find the base policy of a size; "auto" chooses the faster number format."""
    if name == "smollm2":
        base = fetch_base(base or SMOLLM2, BASE_CACHE)
    elif name == "mid":
        base = _mid_base(folder / "base")
    else:
        base = tiny_base(folder / "base")
    chosen = faster_dtype(base, threads) if dtype == "auto" else dtype
    return Setup(folder, SIZES[name], base, chosen, threads, reward_depth)


def _mid_base(folder: Path) -> Path:
    """A random Llama: 8 layers, width 512, 49,152 tokens, embeddings tied as in SmolLM2."""
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=49_152,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def trl_job(
    setup: Setup, answers_per_prompt: int, rows: int, rollout_rows: int, *, frozen_value: bool
) -> Path:
    """Write TRL's job; its prompts are repeated as often as each is to be answered."""
    config = json.loads((setup.base / "config.json").read_text(encoding="utf-8"))
    width = int(config["hidden_size"])
    folder = setup.folder / f"trl-{answers_per_prompt}"
    folder.mkdir(exist_ok=True)
    random_head = torch.Generator().manual_seed(SEED)
    head = torch.randn(1, width, generator=random_head) / math.sqrt(width + 1)
    save_file({"score": head}, str(folder / "head.safetensors"))
    size = setup.size
    tokens = setup.prompt_tokens(answers_per_prompt)
    job = TrlJob(
        base=str(setup.base),
        head=str(folder / "head.safetensors"),
        prompts=[ids for ids in tokens for _ in range(answers_per_prompt)],
        batch=size.batch,
        batches=size.batches,
        epochs=size.epochs,
        answer_tokens=size.answer_tokens,
        rows=rows,
        rollout_rows=rollout_rows,
        temperature=size.temperature,
        learning_rate=size.learning_rate,
        rank=LORA.rank,
        alpha=LORA.alpha,
        dtype=setup.dtype,
        threads=setup.threads,
        frozen_value=frozen_value,
        folder=str(folder),
    )
    path = folder / "job.json"
    path.write_text(json.dumps(asdict(job)), encoding="utf-8")
    return path


def finished_until_ppo(setup: Setup) -> RunFolder:
    """A run whose SFT policy and reward model are the base policy's own weights.

    Both stages run at learning rate 0: their adapters change nothing, and the run's files are
    those of any other run.
    """
    plan = replace(
        _plan(setup, 1),
        stages=("snapshot", "sft", "reward_model"),
        sft=SftPlan(epochs=1, learning_rate=0.0, batch_size=4, watched_questions=0),
        reward_model=RewardPlan(
            epochs=1, learning_rate=0.0, batch_size=8, depth=setup.reward_depth
        ),
    )
    run = RunFolder.create(setup.folder / "before-ppo", plan)
    prompts = [Prompt(f"d{at}", f"{SENTENCES[2]} {at}") for at in range(8)]
    gold = [Demonstration(prompt, SENTENCES[at % 4]) for at, prompt in enumerate(prompts)]
    pairs = [
        Comparison(f"c{at}", prompt, SENTENCES[3], SENTENCES[at % 3], "a")
        for at, prompt in enumerate(prompts)
    ]
    freeze(run.stage_path("snapshot"), gold, pairs, [])
    command = [sys.executable, "-m", "rlhf_engine", str(run.path)]
    checked(command, setup)
    return run


def ppo_run(setup: Setup, before: RunFolder, answers_per_prompt: int, name: str) -> RunFolder:
    """A fresh run at PPO, with the stages before it taken over."""
    run = RunFolder.create(setup.folder / name, _plan(setup, answers_per_prompt))
    for stage in ("sft", "reward_model"):
        shutil.copytree(before.stage_path(stage), run.stage_path(stage))
    frozen = before.stage_path("snapshot")

    kept = Snapshot.open(frozen)
    freeze(
        run.stage_path("snapshot"),
        kept.demonstrations,
        kept.comparisons,
        setup.prompts(answers_per_prompt),
    )
    return run


def _plan(setup: Setup, answers_per_prompt: int) -> RunPlan:
    size = setup.size
    return RunPlan(
        base=str(setup.base),
        stages=("snapshot", "sft", "reward_model", "ppo"),
        seed=SEED,
        dtype=setup.dtype,  # type: ignore[arg-type]
        threads=setup.threads,
        max_prompt_tokens=setup.most_prompt_tokens,
        max_answer_tokens=size.answer_tokens,
        micro_batch_size=size.rows,
        lora=LORA,
        ppo=PpoPlan(
            rollout_batches=size.batches,
            rollout_size=size.batch,
            answers_per_prompt=answers_per_prompt,
            epochs=size.epochs,
            minibatch_size=size.batch,
            learning_rate=size.learning_rate,
            temperature=size.temperature,
            early_stop_kl=100,
            max_kl=10_000,
        ),
    )


def checked(command: list[str], setup: Setup) -> None:
    """Run a process to its end; SystemExit with its last lines if it fails."""
    done = subprocess.run(
        command, cwd=ROOT, env=setup.environment(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-4000:]}")
