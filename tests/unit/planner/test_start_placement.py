"""The placement that a cluster starts from: a file's text for its path, and its refusals."""

from dataclasses import replace
from pathlib import Path

import pytest

from cluster.balance.placement_file import PlacementFileError, write_placement
from cluster.config import ClusterConfig, config_from
from cluster.planner.start_placement import start_name, start_of, with_placement
from experts.placement import LayerPlacement, Placement

LAYERS = (0, 1)
UNEVEN = Placement(3, LayerPlacement(((2,), (0,), (0, 1), (1,))))


def configured(file: Path, **experts: int) -> ClusterConfig:
    return config_from({"balance": {"placement_file": str(file)}, "experts": {"shards": 3} | experts})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "placement.json"
    path.write_text(write_placement(UNEVEN, LAYERS))
    return path


def test_the_text_takes_the_place_of_the_path(file: Path) -> None:
    config = with_placement(configured(file), LAYERS, 4)
    file.unlink()  # other nodes have no such file
    assert with_placement(config, LAYERS, 4) == config
    start = start_of(config, 5)
    assert start is not None
    assert start.shards == 5
    assert [start.layer(layer) for layer in LAYERS] == [UNEVEN.everywhere] * 2
    assert len(start_name(config)) == 16
    assert config_from(config.to_dict()) == config


def test_without_a_file_nothing_is_named() -> None:
    config = config_from({})
    assert with_placement(config, LAYERS, 4) is config
    assert (start_name(config), start_of(config, 2)) == ("", None)


def test_other_files_have_other_names(file: Path) -> None:
    one = with_placement(configured(file), LAYERS, 4)
    file.write_text(write_placement(replace(UNEVEN, everywhere=LayerPlacement(((0,),) * 4)), LAYERS))
    assert start_name(with_placement(configured(file), LAYERS, 4)) != start_name(one)


@pytest.mark.parametrize(
    ("experts", "layers", "said"),
    [
        ({"shards": 2}, LAYERS, "holders is shard 2, there are 2 shards"),
        ({"copies": 2}, LAYERS, "holders has 1 copies of an expert, experts.copies asks for 2"),
        ({}, (0, 5), "layers is .*, the model's MoE layers are"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_files_name(
    file: Path, experts: dict[str, int], layers: tuple[int, ...], said: str
) -> None:
    with pytest.raises(PlacementFileError, match=rf"placement\.json: {said}"):
        with_placement(configured(file, **experts), layers, 4)
