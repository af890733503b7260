"""Recipes by name: what `--recipe NAME` sets; `--set` overrides it.

`modern`, the default, is the settings as `training/settings.py` has them: the head first and then
all layers (LP-FT, arXiv 2202.10054), AdamW, one cycle (arXiv 1708.07120) and no dropout, because
trainings are short. benchmarks/RESULTS.md has what each of these is worth. Values are text, as
`--set` takes them.
"""

from typing import Literal

Recipe = Literal["modern", "fastai2018"]

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
    "hidden": "512",
    "dropout": "",  # 0.25, and 0.5 before the last, for any number of layers
    # half() was optional
    "precision": "float32",
    "batch_size": "64",
    # SGD with momentum, no weight decay, no clipping
    "optimizer": "sgd",
    "momentum": "0.9",
    "weight_decay": "0",
    "clip_norm": "",
    # both are read from the finder
    "learning_rate": "",
    "unfrozen_learning_rate": "",
    # fit(lr, 2) on activations at a constant rate; then fit(lr, 3, cycle_len=1)
    "head_schedule": "constant",
    "head_epochs": "2",
    "augmented_epochs": "3",
    # unfreeze(); fit([lr/100, lr/10, lr], 3, cycle_len=1, cycle_mult=2)
    "schedule": "cosine",
    "cycle_div": "10",  # of use_clr, for those who ask for one_cycle
    "cycles": "3",
    "cycle_len": "1",
    "cycle_mult": "2",
    "group_rates": "0.01,0.1,1",
    "layer_decay": "1",
    "frozen_groups": "0",
    # as lessons 1 and 2 have it with a ResNet-34; with other networks, bn_freeze(True)
    "freeze_batchnorm": "family",
    # neither existed
    "label_noise": "false",
    "calibrate": "false",
    # TTA(): the plain image and four views
    "tta_views": "5",
}

PRESETS: dict[str, dict[str, str]] = {"modern": {}, "fastai2018": FASTAI2018}
