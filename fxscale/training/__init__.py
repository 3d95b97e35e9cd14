"""A thin reference trainer, and the demo that shows what fxscale saves. Needs the `train` extra.

The rest of fxscale knows nothing of it: train the pre-train network in any loop you like and call
`fxscale.transition` when it is time.
"""

from fxscale.training.data import Augmentation, ImageSet, image_folder, image_set, noisy_digits
from fxscale.training.loop import Change, EpochRecord, Observer, Stage, Trainer
from fxscale.training.networks import BasicBlock, SmallResNet
from fxscale.training.recipe import Recipe
from fxscale.training.runs import Run

__all__ = [
    "Augmentation",
    "BasicBlock",
    "Change",
    "EpochRecord",
    "ImageSet",
    "Observer",
    "Recipe",
    "Run",
    "SmallResNet",
    "Stage",
    "Trainer",
    "image_folder",
    "image_set",
    "noisy_digits",
]
