"""Foreign ONNX classifiers become versions, and answer as torch did before they were exported."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from conftest import ImportOnnx, RunningServer, Start
from torch import nn
from torchvision.models import mobilenet_v3_small, resnet18
from torchvision.models.convnext import CNBlockConfig, ConvNeXt

from registry.images import ImageSpec, prepare
from registry.store import Registry
from training.foreign.pictures import draw_pictures

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

SIZE = 64
LABELS = ("ant", "bee", "cat", "dog", "eel")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SEEN = ("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225")
BLOCKS = [CNBlockConfig(16, 32, 1), CNBlockConfig(32, 64, 1), CNBlockConfig(64, None, 1)]
BUILD: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: resnet18(num_classes=len(LABELS)),
    "mobilenet": lambda: mobilenet_v3_small(num_classes=len(LABELS)),
    "convnext": lambda: ConvNeXt(BLOCKS, num_classes=len(LABELS)),
}
PICTURES = [tiny.noise(1), *draw_pictures()[:4]]  # a fixed batch of two has one left over

Export = Callable[[str, str, bool], Path]


def seen(pictures: list[bytes], spec: ImageSpec) -> torch.Tensor:
    """As torchvision's ToTensor and Normalize give them."""
    pixels = torch.from_numpy(np.stack([prepare(one, spec) for one in pictures]))
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    return ((pixels / 255 - mean) / std).permute(0, 3, 1, 2)


@pytest.fixture(scope="session")
def networks() -> dict[str, nn.Module]:
    """Random weights, but answers that differ between pictures."""
    torch.manual_seed(0)
    built = {name: build() for name, build in BUILD.items()}
    pictures = seen(draw_pictures(), ImageSpec(size=SIZE))
    for network in built.values():
        layers = list(network.modules())
        for layer in layers:
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = None  # exact statistics
        with torch.no_grad():
            network.train()(pictures)
            logits = network.eval()(pictures)
            last = [layer for layer in layers if isinstance(layer, nn.Linear)][-1]
            spread = 2 / logits.std(dim=0).mean()
            last.weight *= spread
            last.bias.copy_(spread * (last.bias - logits.mean(dim=0)))
    return built


@pytest.fixture(scope="session")
def export(networks: dict[str, nn.Module], tmp_path_factory: pytest.TempPathFactory) -> Export:
    """The file that an exporter of torch makes of a network, for any batch or for two images."""
    folder = tmp_path_factory.mktemp("exports")

    def export(name: str, exporter: str, fixed: bool) -> Path:
        path = folder / f"{name}-{exporter}-{fixed}.onnx"
        example = (torch.rand(2, 3, SIZE, SIZE),)
        if exporter == "torchscript":
            torch.onnx.export(
                networks[name],
                example,
                path,
                dynamo=False,
                opset_version=13,
                input_names=["pixels"],
                dynamic_axes=None if fixed else {"pixels": {0: "batch"}},
            )
        else:  # as it writes by itself: the weights in another file
            torch.onnx.export(
                networks[name],
                example,
                path,
                dynamo=True,
                opset_version=18,
                verbose=False,
                dynamic_shapes=None if fixed else ({0: torch.export.Dim("batch", max=64)},),
            )
        return path

    return export


def served(server: RunningServer) -> np.ndarray:
    """[n,classes] in the order of the labels."""
    results = server.classify(*PICTURES, model="net", top_k=len(LABELS)).results
    rows = [{one.name: one.probability for one in each.prediction.labels} for each in results]
    return np.array([[row[label] for label in LABELS] for row in rows])


@pytest.mark.parametrize("fixed", [False, True], ids=["any batch", "two at a time"])
@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("name", BUILD)
def test_what_is_imported_is_served_as_torch_answers(
    networks: dict[str, nn.Module],
    export: Export,
    import_onnx: ImportOnnx,
    start: Start,
    root: Path,
    tmp_path: Path,
    name: str,
    exporter: str,
    fixed: bool,
):
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(LABELS))
    code, *_ = import_onnx(export(name, exporter, fixed), "--logits", *SEEN, labels=labels)
    assert code == 0
    bundle = Registry(root).bundle("net", 1)
    assert bundle.fixed_batch == (2 if fixed else None)
    assert ("source_weights_sha256" in bundle.provenance) == (exporter == "dynamo")
    with torch.no_grad():
        truth = networks[name](seen(PICTURES, bundle.image)).softmax(dim=1).numpy()
    assert np.ptp(truth, axis=0).min() > 0.05, "a model that always says the same proves nothing"
    np.testing.assert_allclose(served(start()), truth, atol=1e-5)
