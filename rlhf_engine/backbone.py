"""One frozen base policy in memory, with named LoRA adapters switched on and off.

Policy, SFT reference and reward model are adapters over the same weights. Whatever reads
answers reads them in one layout, `AnswerGroups`: prompts padded on the left, each with as
many answers, padded on the right. A prompt is computed once for all its answers.

Legend: n prompts, g answers a prompt, b = n g answers, p prompt tokens, t answer tokens,
h hidden width, v vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache

from rlhf_engine.attention import use_one_query_attention
from rlhf_engine.base_policy import load_tokenizer
from rlhf_engine.errors import BasePolicyError, PolicyVersionError
from rlhf_engine.files import replaced, write_json
from rlhf_engine.plan import LoraPlan

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
SCORE_KEY = "base_model.model.score.weight"


# Which adapter is on, and whether it may learn; at first, and after a change, not known.
_UNKNOWN: tuple[str | None, bool] = ("", False)


@dataclass(frozen=True, slots=True)
class AnswerGroups:
    """Prompts with g answers each, padded; answers to one prompt share its computation.

    prompts, prompt_mask: [n, p], padded on the left.
    answers, answer_mask: [b, t], padded on the right, with b = n g: the answers to prompt i
    are the rows i g to i g + g - 1. A mask is 1 on real tokens; an answer's end-of-turn
    token is one of them.
    """

    prompts: Tensor
    prompt_mask: Tensor
    answers: Tensor
    answer_mask: Tensor

    @property
    def size(self) -> int:
        """Answers a prompt, g."""
        return len(self.answers) // len(self.prompts)

    @property
    def lengths(self) -> Tensor:
        """Tokens of each answer, [b]."""
        return self.answer_mask.sum(dim=1)

    def ended(self, eos_id: int) -> AnswerGroups:
        """The same with each answer's last token the end-of-turn token, as a written answer has
        it: one that was cut is read as its text would be at the same length."""
        answers = self.answers.clone()
        rows = self.lengths.nonzero().squeeze(1)
        answers[rows, self.lengths[rows] - 1] = eos_id
        return replace(self, answers=answers)


def group_answers(
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    pad_id: int,
    device: torch.device | str = "cpu",
) -> AnswerGroups:
    """Lay out prompts and their answers, as many for each; an empty answer is allowed."""
    if not prompts or len(answers) % len(prompts):
        raise ValueError(f"{len(answers)} answers cannot be shared out to {len(prompts)} prompts")
    width_p = max(len(prompt) for prompt in prompts)
    width_t = max(1, *(len(answer) for answer in answers))
    left = torch.full((len(prompts), width_p), pad_id)
    right = torch.full((len(answers), width_t), pad_id)
    left_mask, right_mask = torch.zeros_like(left), torch.zeros_like(right)
    for row, prompt in enumerate(prompts):
        left[row, width_p - len(prompt) :] = torch.tensor(prompt)
        left_mask[row, width_p - len(prompt) :] = 1
    for row, answer in enumerate(answers):
        right[row, : len(answer)] = torch.tensor(answer, dtype=right.dtype)
        right_mask[row, : len(answer)] = 1
    return AnswerGroups(*(each.to(device) for each in (left, left_mask, right, right_mask)))


def read_answers(model: Any, groups: AnswerGroups, *, head: bool, layers: int | None = None) -> Any:
    """Run a causal LM (its trunk alone without `head`, of that the first `layers`) over prompts
    and answers.

    The prompts go through the trunk once; their key-value cache is repeated g times, and the
    answers go on from it, each from its prompt's last token. Position i of the output, of
    [b, t] with the head and [b, t + 1] without, has read the prompt and i answer tokens.
    Gradients flow through the cache.
    """
    if layers is not None:
        with _first_layers(model.base_model, layers):
            return read_answers(model, groups, head=head)
    g, ends = groups.size, -1 if head else None
    ids = torch.cat([groups.prompts[:, -1:].repeat_interleave(g, 0), groups.answers], dim=1)
    mask = torch.cat([groups.prompt_mask.repeat_interleave(g, 0), groups.answer_mask], dim=1)
    last = groups.prompt_mask.sum(dim=1, keepdim=True).repeat_interleave(g, 0) - 1
    positions = last + torch.arange(ids.shape[1], device=ids.device)
    cache = DynamicCache(config=model.config)
    if groups.prompts.shape[1] > 1:
        before = groups.prompt_mask[:, :-1]
        model.base_model(
            input_ids=groups.prompts[:, :-1],
            attention_mask=before,
            position_ids=(before.cumsum(dim=1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
        )
        if g > 1:
            cache.batch_repeat_interleave(g)
    return (model if head else model.base_model)(
        input_ids=ids[:, :ends],
        attention_mask=mask[:, :ends],
        position_ids=positions[:, :ends],
        past_key_values=cache,
        use_cache=True,
    )


@contextmanager
def _first_layers(trunk: Any, count: int) -> Iterator[None]:
    """The trunk without its layers after the first `count`: its last norm follows on those."""
    parent, name = _place_of_layers(trunk)
    whole = getattr(parent, name)
    setattr(parent, name, whole[:count])
    try:
        yield
    finally:
        setattr(parent, name, whole)


def _place_of_layers(trunk: Any) -> tuple[Any, str]:
    """The module that holds the trunk's list of layers, and what the list is called there."""
    count = layer_count(trunk)
    for parent in trunk.modules():
        for name, child in parent.named_children():
            if isinstance(child, torch.nn.ModuleList) and len(child) == count:
                return parent, name
    raise BasePolicyError(f"{type(trunk).__name__} keeps its {count} layers in no list")


def layer_count(model: Any) -> int:
    """How many layers a causal LM or its trunk has."""
    return int(model.config.get_text_config().num_hidden_layers)


class Backbone:
    """The base policy's weights, loaded once, and the adapters over them."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.eos_id: int = tokenizer.eos_token_id
        self.pad_id: int = tokenizer.pad_token_id
        self._peft: PeftModel | None = None
        self._state = _UNKNOWN
        self.known_sizes: dict[Any, frozenset[int]] = {}
        """What exactness.py found out about this backbone's matrix products."""

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
        use_one_query_attention(model)
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

    def new_adapter(self, name: str, lora: LoraPlan, layers: int | None = None) -> None:
        """Add a fresh adapter of the first `layers` layers, frozen, that changes nothing yet (its
        B matrices are zero)."""
        self._add(name, lora_config(self.model, lora, layers))

    def add_adapter(self, name: str, folder: Path) -> None:
        """Add a stored adapter under `name`, frozen. PolicyVersionError if it does not fit."""
        config, weights = read_adapter(folder)
        self.install_adapter(name, config, weights)

    def install_adapter(
        self, name: str, config: dict[str, Any], weights: dict[str, Tensor]
    ) -> None:
        """Add an adapter whose files were read before (see `read_adapter`)."""
        self._add(name, _plain_config(config))
        outcome = self._load(name, weights)
        missing = [key for key in outcome.missing_keys if f".{name}." in key]
        if outcome.unexpected_keys or missing:
            self.remove_adapter(name)
            wrong = (outcome.unexpected_keys or missing)[0]
            raise PolicyVersionError(
                f"adapter {name} does not fit the base policy: {wrong}; "
                "it was trained on another base"
            )

    def copy_into_adapter(self, name: str, weights: dict[str, Tensor]) -> None:
        """Give an adapter those weights of a stored one of the same rank that it has a place for;
        what else it has stays as it is."""
        self._load(name, weights)

    def remove_adapter(self, name: str) -> None:
        """Forget an adapter and free its memory."""
        assert self._peft is not None
        self._state = _UNKNOWN
        self._peft.base_model.delete_adapter(name)
        self._peft.peft_config.pop(name, None)

    def save_adapter(self, name: str, folder: Path, score: Tensor | None = None) -> None:
        """Write an adapter as a PEFT folder (safetensors and JSON); with score heads [k, h] as
        a sequence classifier of k labels, which is what a reward model is to PEFT."""
        assert self._peft is not None
        write_adapter(self._peft, name, folder, score)

    def adapter_parameters(self, name: str) -> list[torch.nn.Parameter]:
        """The adapter's parameters in a fixed order."""
        return [
            parameter
            for key, parameter in sorted(self.model.named_parameters())
            if f".{name}." in key and "lora_" in key
        ]

    @property
    def adapters(self) -> list[str]:
        """Names of the installed adapters."""
        return [] if self._peft is None else list(self._peft.peft_config)

    def has_adapter(self, name: str) -> bool:
        """Whether an adapter of this name is installed."""
        return name in self.adapters

    @contextmanager
    def using(self, name: str | None, *, trainable: bool = False) -> Iterator[None]:
        """Run with one adapter on, or with the bare base policy for None."""
        self._switch(name, trainable=trainable)
        yield

    def group(
        self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
    ) -> AnswerGroups:
        """Lay out n prompts and n g answers for this backbone (see `AnswerGroups`)."""
        return group_answers(prompts, answers, self.pad_id, self.device)

    def logits(self, groups: AnswerGroups) -> Tensor:
        """Next-token logits at answer positions, [b, t, v], of the adapter in use."""
        logits: Tensor = read_answers(self.model, groups, head=True).logits
        return logits

    def states(self, groups: AnswerGroups, layers: int | None = None) -> Tensor:
        """Hidden states, [b, t + 1, h], of the adapter in use after the first `layers` layers, all
        for None, and the last norm: the first is the prompt's."""
        states: Tensor = read_answers(
            self.model, groups, head=False, layers=layers
        ).last_hidden_state
        return states

    def _load(self, name: str, weights: dict[str, Tensor]) -> Any:
        """Load what an adapter has a place for; the outcome names what is missing or too much."""
        from peft import set_peft_model_state_dict

        lora = {key: value for key, value in weights.items() if "lora_" in key}
        return set_peft_model_state_dict(self._peft, lora, adapter_name=name)

    def _add(self, name: str, config: LoraConfig) -> None:
        # Imported where an adapter is: the base policy alone is served sooner.
        from peft import PeftModel

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
    """ "cuda" where a GPU is visible, the first one, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def lora_config(model: Any, lora: LoraPlan, layers: int | None = None, **extra: Any) -> LoraConfig:
    """LoRA on all linear layers of the last `top_layers` blocks (of all for None) of the first
    `layers` ones (of all for None)."""
    from peft import LoraConfig

    every = layer_count(model)
    count = every if layers is None else layers
    lowest = 0 if lora.top_layers is None else max(0, count - lora.top_layers)
    present = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    targets = sorted(present & set(LINEAR_LAYERS))
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,
        target_modules=targets or "all-linear",
        layers_to_transform=list(range(lowest, count)) if lowest or count < every else None,
        **extra,
    )


def read_adapter(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The adapter's configuration and tensors; PolicyVersionError if a file cannot be read."""
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        return config, load_file(str(folder / ADAPTER_WEIGHTS))
    except Exception as error:
        raise PolicyVersionError(f"adapter {folder} cannot be read: {error}") from error


def write_adapter(model: PeftModel, name: str, folder: Path, score: Tensor | None = None) -> None:
    """Write one adapter of a PEFT model as safetensors and JSON, each file atomically; with
    score heads [k, h], if given."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(model, adapter_name=name)
    config = config_json(model.peft_config[name])
    if score is not None:
        state[SCORE_KEY] = score
        config |= {"task_type": "SEQ_CLS", "modules_to_save": ["score"]}
    tensors = {key: value.detach().cpu().contiguous() for key, value in sorted(state.items())}
    with replaced(folder / ADAPTER_WEIGHTS) as temporary:
        save_file(tensors, str(temporary), metadata={"format": "pt"})
    write_json(folder / ADAPTER_CONFIG, config)


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
    from peft import LoraConfig

    return LoraConfig(
        r=config["r"],
        lora_alpha=config["lora_alpha"],
        lora_dropout=0.0,
        target_modules=config["target_modules"],
        layers_to_transform=config.get("layers_to_transform"),
        use_rslora=config.get("use_rslora", False),
    )
