"""The recipe's section of classification."""

from avtool.config.types import NotNegative, Section, ShareBelow1


class Classify(Section):
    probe: bool = False
    """train heads alone, on a frozen encoder: true or false"""
    multi_label: bool = False
    """whether a clip may have several classes at once (clips with several are left out otherwise)"""
    mixup: NotNegative = 0.0
    """alpha of mixup's Beta distribution, for image and sound; 0: none"""
    cutmix: NotNegative = 0.0
    """alpha of cutmix's Beta distribution, for image and sound; 0: none"""
    modality_dropout: ShareBelow1 = 0.0
    """share of the samples in which either the picture is blank or the sound is silent, each half of the time"""
    spectrogram_masks: ShareBelow1 = 0.0
    """the most of a sound's mel bands, and of its time, that is silenced in training (SpecAugment); 0: none"""
    label_smoothing: ShareBelow1 = 0.0
    """share of a label that is spread over all classes"""
    class_weights: bool = False
    """whether rare classes count more, by inverse frequency: true or false"""
    prior_bias: bool = False
    """whether the heads' biases start at the classes' log odds: true or false"""
