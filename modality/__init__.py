"""Close the modality gap of contrastive models: losses, temperatures, swapping, metrics and models for Trainer.

A CLIP model, fine-tuned with Deep LoRA, a temperature that rises and features that are swapped now and then:

    from peft import get_peft_model
    from transformers import CLIPModel, Trainer, TrainingArguments, default_data_collator
    from deep_lora import DeepLoraConfig, SubspaceInitializationCallback
    from modality import (ContrastiveModel, LinearSchedule, ModalityGapCallback, ModalitySwapCollator, Temperature,
                          TemperatureScheduleCallback)

    clip = CLIPModel.from_pretrained("openai/clip-vit-base-patch32")
    adapted = get_peft_model(clip, DeepLoraConfig(r=8, target_modules=["q_proj", "v_proj"]))
    model = ContrastiveModel(adapted, temperature=Temperature(0.01, mode="scheduled"))
    trainer = Trainer(
        model, TrainingArguments("clip-small-gap", num_train_epochs=3, learning_rate=3e-3, eval_strategy="epoch"),
        data_collator=ModalitySwapCollator(default_data_collator, "hard", probability=1e-3),
        train_dataset=train, eval_dataset=test,
        callbacks=[TemperatureScheduleCallback(LinearSchedule(0.01, 0.05)), SubspaceInitializationCallback()],
    )
    trainer.add_callback(ModalityGapCallback(trainer))
    trainer.train()
    model.save_pretrained("clip-small-gap")
"""

from modality.callback import TemperatureScheduleCallback
from modality.chunks import encode_in_chunks
from modality.collator import ModalitySwapCollator
from modality.contrastive_model import ContrastiveModel
from modality.dual_encoder import DualEncoder
from modality.gap_callback import ModalityGapCallback
from modality.gather import gather_features
from modality.logit_scale import find_temperature, reparameterize_logit_scale_
from modality.loss import contrastive_loss, duplicate_mask, sigmoid_loss
from modality.metrics import linear_separability, mean_shift, modality_gap, uniformity
from modality.objective import ContrastiveObjective
from modality.output import ContrastiveOutput
from modality.parameter_groups import temperature_parameter_groups
from modality.retrieval import margin, recall_at_k
from modality.schedules import ConstantSchedule, CosineAlternation, LinearSchedule, PiecewiseSchedule
from modality.statistics import PairStatistics
from modality.swap import swap_features
from modality.synthetic import SyntheticPoint, synthetic_training, two_clusters
from modality.temperature import Temperature
from modality.theory import (
    FlowPoint,
    inverse_temperature_on_flow,
    linear_schedule_rate,
    scheduled_flow,
    temperature_flow,
)

__all__ = [
    "ConstantSchedule",
    "ContrastiveModel",
    "ContrastiveObjective",
    "ContrastiveOutput",
    "CosineAlternation",
    "DualEncoder",
    "FlowPoint",
    "LinearSchedule",
    "ModalityGapCallback",
    "ModalitySwapCollator",
    "PairStatistics",
    "PiecewiseSchedule",
    "SyntheticPoint",
    "Temperature",
    "TemperatureScheduleCallback",
    "contrastive_loss",
    "duplicate_mask",
    "encode_in_chunks",
    "find_temperature",
    "gather_features",
    "inverse_temperature_on_flow",
    "linear_schedule_rate",
    "linear_separability",
    "margin",
    "mean_shift",
    "modality_gap",
    "recall_at_k",
    "reparameterize_logit_scale_",
    "scheduled_flow",
    "sigmoid_loss",
    "swap_features",
    "synthetic_training",
    "temperature_flow",
    "temperature_parameter_groups",
    "two_clusters",
    "uniformity",
]
