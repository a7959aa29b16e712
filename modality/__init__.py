"""Close the modality gap of contrastive models: losses, temperatures, swapping, metrics and models for Trainer.

A CLIP model, fine-tuned with Deep LoRA, a temperature that rises and features that are swapped now and then:

    import deep_lora
    from peft import get_peft_model
    from transformers import CLIPModel, Trainer, TrainingArguments, default_data_collator
    from deep_lora import DeepLoraConfig
    from modality import (ContrastiveModel, LinearSchedule, ModalityGapCallback, ModalitySwapCollator, Temperature,
                          TemperatureScheduleCallback)

    clip = CLIPModel.from_pretrained("openai/clip-vit-base-patch32")
    adapted = get_peft_model(clip, DeepLoraConfig(r=8, target_modules=["q_proj", "v_proj"]))
    model = ContrastiveModel(adapted, temperature=Temperature(0.01, mode="scheduled"))
    trainer = Trainer(
        model, TrainingArguments("clip-small-gap", num_train_epochs=3, eval_strategy="epoch"),
        data_collator=ModalitySwapCollator(default_data_collator, "hard", probability=1e-3),
        train_dataset=train, eval_dataset=test,
        callbacks=[TemperatureScheduleCallback(LinearSchedule(0.01, 0.05))],
    )
    trainer.add_callback(ModalityGapCallback(trainer))
    deep_lora.prepare(trainer)
    trainer.train()
    model.save_pretrained("clip-small-gap")
"""

from modality.alignment import Centering, LinearAlignment, load_alignment
from modality.losses import contrastive_loss, encode_in_chunks, sigmoid_loss
from modality.metrics import (
    ModalityGapCallback,
    PairStatistics,
    modality_gap,
    recall_at_k,
    search_metrics,
    zero_shot_accuracy,
)
from modality.models import ContrastiveModel, DualEncoder
from modality.output import ContrastiveOutput
from modality.swapping import ModalitySwapCollator, swap_features
from modality.temperature import (
    ConstantSchedule,
    CosineAlternation,
    LinearSchedule,
    PiecewiseSchedule,
    Temperature,
    TemperatureScheduleCallback,
    find_temperature,
    reparameterize_logit_scale_,
    temperature_parameter_groups,
)

__all__ = [
    "Centering",
    "ConstantSchedule",
    "ContrastiveModel",
    "ContrastiveOutput",
    "CosineAlternation",
    "DualEncoder",
    "LinearAlignment",
    "LinearSchedule",
    "ModalityGapCallback",
    "ModalitySwapCollator",
    "PairStatistics",
    "PiecewiseSchedule",
    "Temperature",
    "TemperatureScheduleCallback",
    "contrastive_loss",
    "encode_in_chunks",
    "find_temperature",
    "load_alignment",
    "modality_gap",
    "recall_at_k",
    "reparameterize_logit_scale_",
    "search_metrics",
    "sigmoid_loss",
    "swap_features",
    "temperature_parameter_groups",
    "zero_shot_accuracy",
]
