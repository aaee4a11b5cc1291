"""One frozen base policy in memory, with named LoRA adapters switched on and off.

Policy, SFT reference and reward model are adapters over the same weights. Sequences
have one layout everywhere: the prompt padded on the left, the answer on the right, so
that answers fill the last `t` columns.

Legend: b batch, p prompt tokens, t answer tokens, h hidden width, v vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from rlhf_engine.base_policy import load_tokenizer
from rlhf_engine.errors import BasePolicyError, PolicyVersionError
from rlhf_engine.files import replaced, write_json
from rlhf_engine.plan import LoraPlan

LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
SCORE_KEY = "base_model.model.score.weight"


# Which adapter is on, and whether it may learn; at first, and after a change, not known.
_UNKNOWN: tuple[str | None, bool] = ("", False)


@dataclass(frozen=True, slots=True)
class Sequences:
    """Prompts with their answers, padded.

    ids, mask, positions: [b, p + t]; mask is 1 on real tokens.
    answer_mask: [b, t], 1 on answer tokens, the end-of-turn token among them.
    """

    ids: Tensor
    mask: Tensor
    positions: Tensor
    answer_mask: Tensor

    @property
    def answers(self) -> Tensor:
        """Answer token ids, [b, t]."""
        return self.ids[:, -self.answer_mask.shape[1] :]


def pad_sequences(
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    pad_id: int,
    device: torch.device | str = "cpu",
) -> Sequences:
    """Lay out prompts (padded left) and answers (padded right); an empty answer is allowed."""
    width_p = max(len(prompt) for prompt in prompts)
    width_t = max(1, *(len(answer) for answer in answers))
    ids = torch.full((len(prompts), width_p + width_t), pad_id)
    mask = torch.zeros_like(ids)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        ids[row, width_p - len(prompt) : width_p] = torch.tensor(prompt)
        ids[row, width_p : width_p + len(answer)] = torch.tensor(answer, dtype=ids.dtype)
        mask[row, width_p - len(prompt) : width_p + len(answer)] = 1
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    ids, mask, positions = ids.to(device), mask.to(device), positions.to(device)
    return Sequences(ids, mask, positions, mask[:, width_p:])


class Backbone:
    """The base policy's weights, loaded once, and the adapters over them."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.eos_id: int = tokenizer.eos_token_id
        self.pad_id: int = tokenizer.pad_token_id
        self._peft: PeftModel | None = None
        self._state = _UNKNOWN

    @classmethod
    def load(cls, base: Path, dtype: str = "float32", device: str | None = None) -> Backbone:
        """Read the base policy; BasePolicyError if the folder cannot be used."""
        tokenizer = load_tokenizer(base)
        try:
            model = AutoModelForCausalLM.from_pretrained(
                base,
                dtype=getattr(torch, dtype),
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
            )
        except (OSError, ValueError) as error:
            raise BasePolicyError(f"{base} cannot be read as a causal LM: {error}") from error
        return cls(model.to(device or default_device()), tokenizer)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def width(self) -> int:
        """Hidden width h."""
        return int(self.model.config.get_text_config().hidden_size)

    def new_adapter(self, name: str, lora: LoraPlan) -> None:
        """Add a fresh adapter, frozen, that changes nothing yet (its B matrices are zero)."""
        self._add(name, lora_config(self.model, lora))

    def add_adapter(self, name: str, folder: Path) -> None:
        """Add a stored adapter under `name`, frozen. PolicyVersionError if it does not fit."""
        config, weights = read_adapter(folder)
        self.install_adapter(name, config, weights)

    def install_adapter(
        self, name: str, config: dict[str, Any], weights: dict[str, Tensor]
    ) -> None:
        """Add an adapter whose files were read before (see `read_adapter`)."""
        self._add(name, _plain_config(config))
        lora = {key: value for key, value in weights.items() if "lora_" in key}
        outcome = set_peft_model_state_dict(self._peft, lora, adapter_name=name)
        missing = [key for key in outcome.missing_keys if f".{name}." in key]
        if outcome.unexpected_keys or missing:
            self.remove_adapter(name)
            wrong = (outcome.unexpected_keys or missing)[0]
            raise PolicyVersionError(
                f"adapter {name} does not fit the base policy: {wrong}; "
                "it was trained on another base"
            )

    def remove_adapter(self, name: str) -> None:
        """Forget an adapter and free its memory."""
        assert self._peft is not None
        self._state = _UNKNOWN
        self._peft.base_model.delete_adapter(name)
        self._peft.peft_config.pop(name, None)

    def save_adapter(self, name: str, folder: Path) -> None:
        """Write an adapter as a PEFT folder (safetensors and JSON)."""
        assert self._peft is not None
        write_adapter(self._peft, name, folder)

    def adapter_parameters(self, name: str) -> list[torch.nn.Parameter]:
        """The adapter's parameters in a fixed order."""
        return [
            parameter
            for key, parameter in sorted(self.model.named_parameters())
            if f".{name}." in key and "lora_" in key
        ]

    def has_adapter(self, name: str) -> bool:
        """Whether an adapter of this name is installed."""
        return self._peft is not None and name in self._peft.peft_config

    @contextmanager
    def using(self, name: str | None, *, trainable: bool = False) -> Iterator[None]:
        """Run with one adapter on, or with the bare base policy for None."""
        self._switch(name, trainable=trainable)
        yield

    def logits(self, batch: Sequences) -> Tensor:
        """Next-token logits at answer positions only, [b, t, v], of the adapter in use."""
        t = batch.answer_mask.shape[1]
        output = self.model(
            input_ids=batch.ids,
            attention_mask=batch.mask,
            position_ids=batch.positions,
            use_cache=False,
            logits_to_keep=t + 1,
        )
        logits: Tensor = output.logits[:, :-1]
        return logits

    def hidden(self, batch: Sequences) -> Tensor:
        """Last hidden states, [b, p + t, h], of the adapter in use."""
        output = self.model.base_model(
            input_ids=batch.ids,
            attention_mask=batch.mask,
            position_ids=batch.positions,
            use_cache=False,
        )
        states: Tensor = output.last_hidden_state
        return states

    def _add(self, name: str, config: LoraConfig) -> None:
        if self._peft is None:
            self._peft = PeftModel(self.model, config, adapter_name=name)
        else:
            self._peft.add_adapter(name, config)
        self._peft.eval()
        for parameter in self.adapter_parameters(name):
            parameter.requires_grad_(False)
        self._state = _UNKNOWN

    def _switch(self, name: str | None, *, trainable: bool) -> None:
        """Change what is on only where it differs: PEFT walks through every layer for it."""
        wanted = (name, trainable)
        if self._peft is None or self._state == wanted:
            return
        if name is None:
            self._peft.base_model.disable_adapter_layers()
        else:
            if self._state in (_UNKNOWN, (None, False), (None, True)):
                self._peft.base_model.enable_adapter_layers()
            self._peft.set_adapter(name, inference_mode=not trainable)
        self._state = wanted


def default_device() -> str:
    """ "cuda" where there is one, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def lora_config(model: Any, lora: LoraPlan, **extra: Any) -> LoraConfig:
    """LoRA on all linear layers of the last `top_layers` blocks (of all for None)."""
    count = int(model.config.get_text_config().num_hidden_layers)
    lowest = 0 if lora.top_layers is None else max(0, count - lora.top_layers)
    present = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    targets = sorted(present & set(LINEAR_LAYERS))
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,
        target_modules=targets or "all-linear",
        layers_to_transform=list(range(lowest, count)) if lowest else None,
        **extra,
    )


def read_adapter(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The adapter's configuration and tensors; PolicyVersionError if a file cannot be read."""
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        return config, load_file(str(folder / ADAPTER_WEIGHTS))
    except Exception as error:
        raise PolicyVersionError(f"adapter {folder} cannot be read: {error}") from error


def write_adapter(model: PeftModel, name: str, folder: Path) -> None:
    """Write one adapter of a PEFT model as safetensors and JSON, each file atomically."""
    state = get_peft_model_state_dict(model, adapter_name=name)
    tensors = {key: value.detach().cpu().contiguous() for key, value in sorted(state.items())}
    with replaced(folder / ADAPTER_WEIGHTS) as temporary:
        save_file(tensors, str(temporary), metadata={"format": "pt"})
    write_json(folder / ADAPTER_CONFIG, config_json(model.peft_config[name]))


def config_json(config: LoraConfig) -> dict[str, Any]:
    """A LoRA configuration as JSON that does not depend on time, machine or set order."""
    data = config.to_dict()
    data["base_model_name_or_path"] = None
    data["inference_mode"] = True
    plain = {key: sorted(v) if isinstance(v, set) else v for key, v in data.items()}
    parsed: dict[str, Any] = json.loads(json.dumps(plain, default=str, sort_keys=True))
    return parsed


def _plain_config(config: dict[str, Any]) -> LoraConfig:
    """Rank, scale and places of a stored adapter; whatever else it says is left aside."""
    return LoraConfig(
        r=config["r"],
        lora_alpha=config["lora_alpha"],
        lora_dropout=0.0,
        target_modules=config["target_modules"],
        layers_to_transform=config.get("layers_to_transform"),
        use_rslora=config.get("use_rslora", False),
    )
