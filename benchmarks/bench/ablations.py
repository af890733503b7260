"""What is changed, one at a time, from the base, the settings that `ablate` is given.

Each is a setting of training/settings.py or several that belong together; in the order in which
they are run, seed by seed, so that the first ones can be read while the others run.
"""

# None of these takes part in what is compared: copies in fewer bits cost time and no accuracy.
QUIET = {"variants": ""}

CHANGES: dict[str, dict[str, str]] = {
    "batch norm learns at equal rates": {"freeze_batchnorm": "false", "group_rates": "1,1,1"},
    "rare features unbounded": {"epsilon": "0.00001"},
    "an augmented head epoch": {"augmented_epochs": "1"},
    "batches of 64": {"batch_size": "64"},
    "all symmetries": {"augmentation": "top_down"},
    "flips both ways": {"augmentation": "flips"},
    "left-right flips": {"augmentation": "side_on"},
    "no augmentation": {"augmentation": "none"},
    "half the unfrozen rate": {"unfrozen_learning_rate": "2.5e-4"},
    "twice the unfrozen rate": {"unfrozen_learning_rate": "1e-3"},
    "rates as found": {"learning_rate": "", "unfrozen_learning_rate": ""},
    "SGD at rates as found": {
        "optimizer": "sgd",
        "weight_decay": "1e-4",
        "learning_rate": "",
        "unfrozen_learning_rate": "",
    },
    "AdamW": {
        "optimizer": "adamw",
        "weight_decay": "0.01",
        "learning_rate": "1e-3",
        "unfrozen_learning_rate": "1e-3",
    },
    "cosine restarts": {"schedule": "cosine"},
    "one cycle in lines": {"schedule": "one_cycle"},
    "one cycle in half cosines": {"schedule": "cosine_cycle"},
    "no label smoothing": {"label_smoothing": "0"},
    "label smoothing 0.1": {"label_smoothing": "0.1"},
    "no mean of the weights": {"ema": "0"},
    "the mean always": {"ema": "0.99", "ema_kept": "always"},
    "a shorter mean": {"ema": "0.99"},
    "batch norm learns": {"freeze_batchnorm": "false"},
    "equal rates": {"group_rates": "1,1,1"},
    "rates 10x apart": {"group_rates": "0.01,0.1,1"},
    "early layers frozen": {"frozen_groups": "1"},
    "no augmented head epoch": {"augmented_epochs": "0"},
    "linear head": {"hidden": "", "dropout": "0"},
    "no dropout": {"dropout": "0"},
    "dropout": {"dropout": "0.25,0.5"},
    "half the epochs": {"cycles": "1", "cycle_len": "5"},
    "twice the epochs": {"cycles": "1", "cycle_len": "20"},
    "batches of 32": {"batch_size": "32"},
    "batches of 16": {"batch_size": "16"},
    "no rotation": {"max_rotate": "0"},
    "no zoom": {"max_zoom": "1"},
    "no decay": {"weight_decay": "0"},
    "decay 0.1": {"weight_decay": "0.1"},
    "mixup": {"mixup": "0.2"},
    "CutMix": {"cutmix": "1"},
    "random erasing": {"erasing": "0.25"},
    "TrivialAugment": {"policy": "trivial"},
    "SAM": {"sam": "0.05"},
    "SAM, half the epochs": {"sam": "0.05", "cycles": "1", "cycle_len": "5"},
    "mean of the epochs (SWA)": {"keep": "swa", "ema": "0"},
    "best epoch": {"keep": "best"},
    "float32": {"precision": "float32"},
    "class weights": {"balance": "weights"},
    "balanced sampling": {"balance": "sampling"},
}
