"""The baseline of Table II: clusters at every layer of the base model (Kumar et al. 2019, "Accelerating Deep Learning
Inference via Freezing").

After the stem and after each residual block the output, averaged over its pixels (global average pooling), goes to the
nearest of K x C k-means clusters of training outputs; the cluster's predominant label is the answer, its share the
confidence. The first layer that is confident enough ends the inference.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from fed_rebel.cost import flops_per_query
from fed_rebel.datasets import Split
from fed_rebel.early import answer
from fed_rebel.early.classifier import Spec
from fed_rebel.early.kmeans import KMeans
from fed_rebel.model.resnet import BaseModel
from fed_rebel.study.answers import evaluated, kept, pooled
from fed_rebel.training.batches import evaluation_batches
from fed_rebel.training.setup import Setup


def layers_of(base: BaseModel) -> list[nn.Module]:
    """The stem and each residual block, in the order in which an image goes through them."""
    groups = [*base.head.children(), *(child for child in base.tail.children() if _is_group(child))]
    return [groups[0], *(block for group in groups[1:] for block in group.children())]


def layer_answers(setup: Setup, components: int, seed: int, folder: Path) -> pd.DataFrame:
    """A row an image and layer: `split, image, label, layer` (from 0), `local_label, confidence`."""

    def ask() -> pd.DataFrame:
        layers = layers_of(setup.base)
        train, classes = setup.dataset.train, len(setup.dataset.classes)
        known = _outputs(layers, setup, train, pooled(setup))
        asked = {name: _outputs(layers, setup, *where) for name, where in evaluated(setup).items()}
        parts = []
        for layer, codes in enumerate(known):
            clusters = KMeans(Spec(classes, seed, code=codes.shape[1], components=components, projection=None))
            clusters.fit(codes, torch.from_numpy(train.labels[pooled(setup)]))
            for name, (split, indices) in evaluated(setup).items():
                said = answer(clusters.class_scores(asked[name][layer]))
                columns = {"image": indices, "label": split.labels[indices], "local_label": said.label.numpy()}
                parts.append(
                    pd.DataFrame(columns | {"confidence": said.confidence.numpy()}).assign(split=name, layer=layer)
                )
        return pd.concat(parts, ignore_index=True)

    return kept(folder / f"kumar-seed{seed}.parquet", ask)


def device_flops(base: BaseModel, classes: int, components: int) -> np.ndarray:
    """Operations of a query that goes through the first 1, 2, ... layers and their clusters, [layers]."""
    layers, image = layers_of(base), torch.zeros(4, 3, 32, 32, device=next(base.parameters()).device)
    spent, clusters = [], 0
    for depth in range(1, len(layers) + 1):
        pooling = nn.Sequential(*layers[:depth], nn.AdaptiveAvgPool2d(1))
        with torch.no_grad():
            channels = pooling(image).shape[1]
        clusters += 2 * components * classes * channels
        spent.append(flops_per_query(pooling, image) + clusters)
    return np.array(spent)


def _outputs(layers: list[nn.Module], setup: Setup, split: Split, indices: np.ndarray) -> list[Tensor]:
    """Of each layer the pooled outputs [N, channels]."""
    batches = []
    with torch.inference_mode():
        for images, _ in evaluation_batches(setup.dataset, split, indices):
            features, outputs = images.to(setup.compute.device), []
            with setup.compute.autocast():
                for layer in layers:
                    features = layer(features)
                    outputs.append(features.float().mean((2, 3)).cpu())
            batches.append(outputs)
    return [torch.cat(of_layer) for of_layer in zip(*batches, strict=True)]


def _is_group(child: nn.Module) -> bool:
    """The tail's groups of blocks; its pooling and its linear layer are none."""
    return isinstance(child, nn.Sequential) and not any(isinstance(part, nn.Flatten) for part in child)
