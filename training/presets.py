"""Recipes by name: what `--recipe NAME` sets, before what `--set` says.

The default recipe has no name: it is what `training/settings.py` says.
"""

from typing import Literal

Recipe = Literal["", "fastai2018"]

# As the course of 2018 ran it (fastai 0.7, lessons 1 and 2), in the order of the settings. The
# learning rates are read from the finder, as they were there, by a rule instead of by eye.
FASTAI2018 = {
    # get_cv_idxs: a fifth, NumPy's permutation of seed 42
    "split": "cv",
    "valid_fraction": "0.2",
    "seed": "42",
    # tfms_from_model(resnet34, 224, aug_tfms=transforms_side_on, max_zoom=1.1)
    "size": "224",
    "crop": "center",
    "crop_fraction": "1.0",
    "augmentation": "side_on",
    "max_rotate": "10",
    "max_zoom": "1.1",
    # ConvLearner.pretrained(resnet34, data)
    "backbone": "resnet34",
    "hidden": "512",
    "dropout": "0.25,0.5",
    "batch_size": "64",
    # SGD with momentum, no weight decay, no clipping
    "optimizer": "sgd",
    "momentum": "0.9",
    "weight_decay": "0",
    "clip_norm": "",
    # fit(lr, 2) on activations at a constant rate; then fit(lr, 3, cycle_len=1)
    "head_schedule": "constant",
    "head_epochs": "2",
    "augmented_epochs": "3",
    # unfreeze(); fit([lr/100, lr/10, lr], 3, cycle_len=1, cycle_mult=2)
    "schedule": "cosine",
    "cycles": "3",
    "cycle_len": "1",
    "cycle_mult": "2",
    "group_rates": "0.01,0.1,1",
    "frozen_groups": "0",
    "freeze_batchnorm": "false",
    # TTA(): the plain image and four views
    "tta_views": "5",
}

PRESETS: dict[str, dict[str, str]] = {"": {}, "fastai2018": FASTAI2018}
