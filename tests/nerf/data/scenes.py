"""What tests of scenes' pictures share."""

from pathlib import Path
from typing import Any

from peak_nerf.nerf.data.dataparser import PeakDataParserConfig, PeakDataparserOutputs
from peak_nerf.nerf.data.dataset import PeakDataset


def parse(data: Path, split: str = "train", **options: Any) -> PeakDataparserOutputs:
    outputs = PeakDataParserConfig(data=data, **options).setup().get_dataparser_outputs(split=split)
    assert isinstance(outputs, PeakDataparserOutputs)
    return outputs


def dataset(data: Path, split: str = "train", **options: Any) -> PeakDataset:
    return PeakDataset(parse(data, split, **options))
