"""Load base models, tokenizers and image processors, and prepare them for adapters."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import peft
import torch
import transformers
from torch import nn
from transformers.utils import logging

from training.errors import UsageError, loading_error
from training.settings.common import ModelArguments
from training.settings.data import LENGTH

# Models that number places from the one after the padding token.
_AFTER_PADDING = frozenset(
    ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm", "data2vec-text", "longformer",
     "mpnet", "lilt", "ibert", "xmod")
)  # fmt: skip


class Headed(Protocol):
    """What has to be known of a task to load a model for it; see `training.job.Task`."""

    @property
    def name(self) -> str: ...
    @property
    def auto_class(self) -> str: ...
    @property
    def model_settings(self) -> dict[str, Any]: ...


class Base(NamedTuple):
    """A base model and what its checkpoint did not have, such as a new classifier."""

    model: nn.Module
    new_modules: list[str]


def load_base(arguments: ModelArguments, task: Headed, token: str | None = None) -> Base:
    """Load the base model of a task, with a head for its labels.

    Raises:
        UsageError: no model was named, it cannot be loaded, or it has no head of this kind.
    """
    settings = _loading_settings(arguments, token)
    name = model_name(arguments)
    auto_class, quantized = getattr(transformers, task.auto_class), {}
    try:
        config = transformers.AutoConfig.from_pretrained(name, **settings)
        for key, value in task.model_settings.items():
            setattr(config, key, value)
        if quantization := quantization_config(arguments):
            quantization.llm_int8_skip_modules = _heads(auto_class, config, arguments.trust_remote_code)
            quantized = {"quantization_config": quantization}
        with without_report():
            model, report = auto_class.from_pretrained(
                name,
                config=config,
                dtype=arguments.dtype if arguments.dtype == "auto" else getattr(torch, arguments.dtype),
                attn_implementation=arguments.attn_implementation,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **settings,
                **quantized,
            )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise loading_error(f"the model {name}", error, token, f" for --task {task.name}") from error
    keep_differentiable_(model)
    return Base(model, _new_modules(model, report))


def _heads(auto_class: Any, config: Any, trust_remote_code: bool) -> list[str]:
    """Name the layers that are not quantized: heads, which may be new, and output embeddings.

    By itself transformers spares the last parameter, which of a head with a bias is only the bias.
    """
    with torch.device("meta"):
        model = auto_class.from_config(config, trust_remote_code=trust_remote_code)
    children, base = dict(model.named_children()), model.base_model_prefix
    heads = {name for name in children if name != base} if base in children else set()
    last = list(model.named_parameters())[-1][0].rpartition(".")[0]
    output = model.get_output_embeddings()
    return sorted({*heads, last, *(name for name, module in model.named_modules() if module is output)})


@contextmanager
def without_report() -> Iterator[None]:
    """Keep transformers from printing which weights are new, which is reported elsewhere, and from drawing bars."""
    before, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if bar:
            logging.enable_progress_bar()


def keep_differentiable_(model: nn.Module) -> None:
    """Keep bitsandbytes' 4-bit layers on a CPU on the path that has gradients, after an evaluation too.

    On a CPU with AVX512-BF16 they repack their weights at the first forward pass in evaluation mode, for a kernel
    without a backward pass, and stay so when training continues: adapters below them then get no gradient.
    """
    layers: Any = model.modules()
    for module in layers:
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def load_processor(arguments: ModelArguments, images: bool = False, token: str | None = None) -> Any:
    """Load the tokenizer or image processor of the model; a tokenizer without padding pads with its end of text.

    Raises:
        UsageError: it cannot be loaded.
    """
    name = model_name(arguments)
    kind = transformers.AutoImageProcessor if images else transformers.AutoTokenizer
    try:
        processor = kind.from_pretrained(name, **_loading_settings(arguments, token))
    except (OSError, ValueError, KeyError, ImportError) as error:
        what = "image processor" if images else "tokenizer"
        raise loading_error(f"the {what} of {name}", error, token) from error
    if not images and processor.pad_token is None:
        if processor.eos_token is None:
            raise UsageError(
                f"the tokenizer of {name} has neither a token for padding nor one for the end of a text, so texts of "
                "several lengths fit in no batch; add a pad_token to its tokenizer_config.json, or pass another model"
            )
        processor.pad_token = processor.eos_token
    return processor


def fitted_length(arguments: ModelArguments, wanted: int | None, token: str | None = None, usual: int = LENGTH) -> int:
    """Return after how many tokens a text is cut off.

    Args:
        arguments: which model.
        wanted: what was asked for.
        token: to read private models with.
        usual: where nothing was asked for.

    Raises:
        UsageError: the model has no places for so many tokens, or its configuration cannot be read.
    """
    name = model_name(arguments)
    try:
        config = transformers.AutoConfig.from_pretrained(name, **_loading_settings(arguments, token)).get_text_config()
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise loading_error(f"the configuration of {name}", error, token) from error
    places = places_of(config)
    if wanted is not None and wanted > places:
        raise UsageError(f"--max_length got {wanted}; {name} takes at most {places} tokens")
    return int(wanted or min(usual, places))


def places_of(config: Any) -> float:
    """Return how many tokens a model of texts has places for; infinity if its configuration sets no limit."""
    places: float = getattr(config, "max_position_embeddings", None) or math.inf
    return places - (getattr(config, "pad_token_id", None) or 0) - 1 if config.model_type in _AFTER_PADDING else places


def model_name(arguments: ModelArguments) -> str:
    """Return the name of the base model.

    Raises:
        UsageError: none was passed.
    """
    if not arguments.model:
        raise UsageError("no model to fine-tune was given; pass --model with a name on the Hub or a folder")
    return arguments.model


def quantization_config(arguments: ModelArguments) -> Any:
    """Return bitsandbytes' settings, or None. New heads stay in full precision.

    Raises:
        UsageError: bitsandbytes is not installed.
    """
    if not (arguments.load_in_4bit or arguments.load_in_8bit):
        return None
    if not transformers.utils.is_bitsandbytes_available():
        raise UsageError('--load_in_4bit and --load_in_8bit need bitsandbytes: pip install "deep-lora[quantization]"')
    if arguments.load_in_8bit:
        return transformers.BitsAndBytesConfig(load_in_8bit=True)
    compute = torch.float32 if arguments.dtype == "auto" else getattr(torch, arguments.dtype)
    return transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)


def prepare_base(base: Base, processor: Any, *, quantized: bool, checkpointing: bool) -> nn.Module:
    """Prepare the base for an adapter: padding known, quantized layers ready for gradients."""
    model: Any = base.model
    pad = getattr(processor, "pad_token_id", None)
    if getattr(model.config, "pad_token_id", None) is None and pad is not None:
        model.config.pad_token_id = pad
    if quantized:
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=checkpointing)
    elif checkpointing and hasattr(model, "enable_input_require_grads"):
        model.enable_input_require_grads()
    return model


def _loading_settings(arguments: ModelArguments, token: str | None) -> dict[str, Any]:
    settings: dict[str, Any] = {"trust_remote_code": arguments.trust_remote_code, "token": token}
    if arguments.revision:
        settings["revision"] = arguments.revision
    if arguments.gguf_file:
        settings["gguf_file"] = arguments.gguf_file
    return settings


def _new_modules(model: nn.Module, report: dict[str, Any]) -> list[str]:
    """Return modules whose weights the checkpoint did not have: whole heads, and single layers inside of the base."""
    missing = list(report.get("missing_keys", ())) + [entry[0] for entry in report.get("mismatched_keys", ())]
    parameters = {name for name, _ in model.named_parameters()}
    prefix = getattr(model, "base_model_prefix", "")
    found = set()
    for owner in {key.rpartition(".")[0] for key in missing if key in parameters}:
        first = owner.partition(".")[0]
        found.add(owner if first == prefix else first)
    return sorted(found)
