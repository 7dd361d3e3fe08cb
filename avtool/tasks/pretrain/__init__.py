"""Pretraining by masked reconstruction (DeepAVFusion, arXiv 2312.01017, section 3), by contrast, or by both."""

from avtool.tasks import Task

TASK = Task(
    name="pretrain",
    section="avtool.tasks.pretrain.recipe:Pretrain",
    training="avtool.tasks.pretrain.train:Pretraining",
    kinds={"autoencoder": "avtool.model.mae:MaskedAutoencoder"},
    head="avtool.config.model:Decoders",
    evaluated_by="classify",
    limits="Before it is fine-tuned it classifies, localizes, separates and segments nothing.",
)
