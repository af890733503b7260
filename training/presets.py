"""Recipes by name: what `--recipe NAME` sets; `--set` overrides it.

The default recipe has no name: it is the defaults of `training/settings.py`, which also explains
each setting. Values are text, as `--set` takes them.
"""

from typing import Literal

Recipe = Literal["", "fastai2018", "modern"]

# As the course of 2018 ran it (fastai 0.7, lessons 1 and 2), in the order of the settings. As
# there, the learning rates come from the finder, though by a rule instead of by eye.
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
    "hidden": "512",  # dropout by default: 0.25, 0.5 before the last, for any number of layers
    "epsilon": "0.00001",
    # half() was optional
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
    # neither existed
    "label_noise": "false",
    "calibrate": "false",
    # TTA(): the plain image and four views
    "tta_views": "5",
}

# Short fine-tuning as practised since, in the order of the settings. What is not listed here is as
# in training/settings.py; benchmarks/RESULTS.md shows what each change is worth.
MODERN = {
    "augmentation": "side_on",
    # rotation hurt on upright images; set it where they are not
    "max_rotate": "0",
    # its ImageNet weights come as an installed package
    "backbone": "efficientnet_lite0",
    "hidden": "512",
    # trainings are short, and overfit little
    "dropout": "0",
    # with few images, larger batches would leave too few steps
    "batch_size": "32",
    # AdamW (arXiv 1711.05101); the size of its steps depends on the learning rate rather than on
    # the gradient's scale, so these rates suit most networks
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
