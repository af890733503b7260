"""Recipes by name: what `--recipe NAME` sets; what `--set` says wins.

The default recipe has no name: it is what `training/settings.py` says. Values are text, as `--set`
takes them; what a setting does is said there, too.
"""

from typing import Literal

Recipe = Literal["", "fastai2018", "modern"]

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
    "hidden": "512",  # dropout is unsaid: 0.25, the last 0.5, however many layers there are
    "epsilon": "0.00001",
    # half() was there for those who asked
    "precision": "float32",
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
    # neither was there
    "label_noise": "false",
    "calibrate": "false",
    # TTA(): the plain image and four views
    "tta_views": "5",
}

# What has been learnt since, for a short fine-tuning, in the order of the settings. What is not
# said here is as in training/settings.py; benchmarks/RESULTS.md has what the changes are worth.
MODERN = {
    "augmentation": "side_on",
    # turning cost where pictures are upright; say it where they are not
    "max_rotate": "0",
    # its ImageNet weights are an installed package
    "backbone": "efficientnet_lite0",
    "hidden": "512",
    # trainings are short, and what is learnt by heart is little
    "dropout": "0",
    # steps are few where images are
    "batch_size": "32",
    # AdamW (arXiv 1711.05101); its steps are as large as the rate, whatever the gradient, so these
    # rates do for most networks
    "optimizer": "adamw",
    "learning_rate": "0.001",
    "unfrozen_learning_rate": "0.0005",
    "weight_decay": "0.01",
    "clip_norm": "1.0",
    # the head first, then all: LP-FT, arXiv 2202.10054
    "head_schedule": "cosine",
    "head_epochs": "5",
    "augmented_epochs": "0",
    # one cycle (arXiv 1708.07120)
    "schedule": "cosine_cycle",
    "cycle_div": "25",
    "cycle_rise": "0.25",
    "cycles": "1",
    "cycle_len": "10",
    "freeze_batchnorm": "true",
    "group_rates": "0.1,0.3,1",
    "layer_decay": "family",
    "frozen_groups": "0",
    "keep": "last",
    "tta_views": "5",
}

PRESETS: dict[str, dict[str, str]] = {"": {}, "fastai2018": FASTAI2018, "modern": MODERN}
