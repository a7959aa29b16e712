"""Deep LoRA for Hugging Face PEFT: `get_peft_model(model, DeepLoraConfig(...))`.

Importing this package registers the method, so import it before loading an adapter.
"""

from deep_lora.adapters import cast_adapter_, rescale_adapter_scale
from deep_lora.config import PEFT_TYPE, DeepLoraConfig
from deep_lora.drift import DriftCallback
from deep_lora.export.conversion import convert_folder
from deep_lora.export.gguf import convert_to_gguf
from deep_lora.export.lora import kept_ranks, save_as_lora, to_lora
from deep_lora.export.serving import Serving, check_serving
from deep_lora.export.spectra import AdapterReport, ModuleReport, inspect_adapter
from deep_lora.files import AdapterFileError
from deep_lora.layers.base import DeepLoraLayer
from deep_lora.layers.finding import adapted_layers
from deep_lora.optimizer.groups import create_optimizer, parameter_groups
from deep_lora.optimizer.steps import StepRule
from deep_lora.preparation import DeepLoraCallback, prepare
from deep_lora.registration import register
from deep_lora.subspaces.callback import SubspaceInitializationCallback
from deep_lora.subspaces.initialize import InitializationReport, initialize_subspaces_
from deep_lora.tuner import card, hotswap, layout, mixing
from deep_lora.tuner.layout import put_lora_at_root
from deep_lora.tuner.model import DeepLoraModel

register(PEFT_TYPE, DeepLoraConfig, DeepLoraModel)
card.install()
hotswap.install()
layout.install()
mixing.install()

__version__ = "0.1.0"
__all__ = [
    "AdapterFileError",
    "AdapterReport",
    "DeepLoraCallback",
    "DeepLoraConfig",
    "DeepLoraLayer",
    "DeepLoraModel",
    "DriftCallback",
    "InitializationReport",
    "ModuleReport",
    "Serving",
    "StepRule",
    "SubspaceInitializationCallback",
    "adapted_layers",
    "cast_adapter_",
    "check_serving",
    "convert_folder",
    "convert_to_gguf",
    "create_optimizer",
    "initialize_subspaces_",
    "inspect_adapter",
    "kept_ranks",
    "parameter_groups",
    "prepare",
    "put_lora_at_root",
    "rescale_adapter_scale",
    "save_as_lora",
    "to_lora",
]
