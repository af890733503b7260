"""What is changed, one at a time, from the base, the settings that `ablate` is given.

Each is a setting of training/settings.py or several that belong together; in the order in which
they are run, seed by seed, so that the first ones can be read while the others run.
"""

# None of these takes part in what is compared: copies in fewer bits cost time and no accuracy.
QUIET = {"variants": ""}

CHANGES: dict[str, dict[str, str]] = {
    "batch norm learns": {"freeze_batchnorm": "false"},
    "AdamW": {"optimizer": "adamw", "weight_decay": "0.01"},
    "SGD": {"optimizer": "sgd", "weight_decay": "1e-4"},
    "one cycle": {"schedule": "one_cycle"},
    "cosine restarts": {"schedule": "cosine"},
    "all symmetries": {"augmentation": "top_down"},
    "flips both ways": {"augmentation": "flips"},
    "left-right flips": {"augmentation": "side_on"},
    "no augmentation": {"augmentation": "none"},
    "no rotation": {"max_rotate": "0"},
    "no zoom": {"max_zoom": "1"},
    "equal rates": {"group_rates": "1,1,1"},
    "rates 10x apart": {"group_rates": "0.01,0.1,1"},
    "rates 3x apart": {"group_rates": "0.1,0.3,1"},
    "linear head": {"hidden": ""},
    "no dropout": {"dropout": "0"},
    "no augmented head epoch": {"augmented_epochs": "0"},
    "batches of 32": {"batch_size": "32"},
    "mean of the epochs (SWA)": {"keep": "swa"},
    "best epoch": {"keep": "best"},
    "twice the epochs": {"cycles": "2", "cycle_len": "2"},
    "class weights": {"balance": "weights"},
    "balanced sampling": {"balance": "sampling"},
}
