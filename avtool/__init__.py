"""avtool: prepare, pretrain, fine-tune, evaluate and run early-fusion audio-visual transformers."""

__version__ = "0.1.0"
