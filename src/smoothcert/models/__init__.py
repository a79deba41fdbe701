"""Networks that map pixels in [0, 1] to logits, input normalisation first."""

from smoothcert.models.checkpoints import load_weights, read_checkpoint
from smoothcert.models.fast_resnet import FastResNet, fast_resnet
from smoothcert.models.folding import Folding, folded
from smoothcert.models.matching import Match, match_names
from smoothcert.models.modes import evaluating, frozen
from smoothcert.models.normalization import Normalize, normalized, with_normalization
from smoothcert.models.resnet_cifar import CifarResNet, cifar_resnet
from smoothcert.models.resnet_imagenet import resnet50
from smoothcert.models.small_cnn import SmallCNN, small_cnn
from smoothcert.models.submodules import parts_of
from smoothcert.models.timm_models import timm_model
from smoothcert.models.wide_resnet import WideResNet, wide_resnet

__all__ = [
    "CifarResNet",
    "FastResNet",
    "Folding",
    "Match",
    "Normalize",
    "SmallCNN",
    "WideResNet",
    "cifar_resnet",
    "evaluating",
    "fast_resnet",
    "folded",
    "frozen",
    "load_weights",
    "match_names",
    "normalized",
    "parts_of",
    "read_checkpoint",
    "resnet50",
    "small_cnn",
    "timm_model",
    "wide_resnet",
    "with_normalization",
]
