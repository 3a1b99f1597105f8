"""Every reader of a document meets valid syntax of another structure: an answer or one line, never a traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drills import readers
from drills.faults import refusal
from drills.readers import (
    DEEP,
    ERRORS,
    READERS,
    STRANGE,
    Place,
    changed,
    document,
    parsed,
    places,
    quick,
    read_damaged,
    write_documents,
)
from vicreg.exchange import encoder_file, foreign_checkpoints

VALUES = st.sampled_from(readers.VALUES)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, digits_folder: Path) -> Place:
    folder = tmp_path_factory.mktemp("documents")
    for name in ("train.beton", "train.beton.json"):
        shutil.copy(digits_folder / name, folder / name)
    return write_documents(folder)


@pytest.fixture(autouse=True)
def _quick(whole: Place) -> Iterator[None]:
    with quick(whole):
        yield


@pytest.mark.parametrize("name", READERS)
def test_whole_documents_are_read(name: str, whole: Place) -> None:
    if name not in ("rendezvous.json", "subset"):  # nobody is there; of other samples
        READERS[name].read(whole)


@pytest.mark.parametrize("name", READERS)
def test_strange_documents_are_one_line(name: str, whole: Place) -> None:
    for content in STRANGE:
        read_damaged(READERS[name], whole, content + b"\n" * READERS[name].in_lines)


@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_documents_of_another_structure_are_one_line(name: str, whole: Place, data: st.DataObject) -> None:
    reader = READERS[name]
    path = reader.path(whole)
    value = parsed(reader, path)
    way = data.draw(st.sampled_from(places(value)))
    other = changed(value, way, data.draw(VALUES | st.just(...)))
    read_damaged(reader, whole, document(reader, path, other))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("iNaturalist's list", {"images": [{"id": [], "file_name": "a"}], "annotations": [], "categories": []}),
        ("rendezvous.json", {"hosts": [".0.0.1"], "port": 1}),
    ],
)
def test_what_drills_have_found_is_one_line(name: str, whole: Place, content: dict[str, Any]) -> None:
    read_damaged(READERS[name], whole, json.dumps(content).encode())


OBJECTS: tuple[Any, ...] = (None, [], {}, 17, "text", {"encoder": 1, "model": 2, "origin": 3}, {1: torch.zeros(1)})


@pytest.mark.parametrize("reader", [encoder_file.load_encoder, foreign_checkpoints.read])
@given(data=st.data())
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_weights_of_another_structure_are_an_error_that_names_them(
    reader: Callable[[Path], Any], tmp_path: Path, data: st.DataObject
) -> None:
    model: dict[str, Any] = {"encoder": "resnet10-narrow", "small_images": True}
    own: dict[str, Any] = {
        "schema": 2,
        "encoder": {"a": torch.zeros(1)},
        "model": model,
        "origin": {"config": {"data": {}}},
    }
    state = {"method": {"encoder.a": torch.zeros(1)}, "config": {"model": model, "data": {}}, "step": 1}
    content = data.draw(st.sampled_from([own, state, {"state_dict": {"a": torch.zeros(1)}}]))
    way = data.draw(st.sampled_from(places(content)))
    other = data.draw(st.sampled_from(OBJECTS) | st.just(changed(content, way, data.draw(VALUES | st.just(...)))))
    path = tmp_path / "weights.pt"
    torch.save(other, path)
    said = refusal(lambda: reader(path), ERRORS)
    assert not said or "weights.pt" in said


@pytest.mark.parametrize("content", STRANGE)
@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_no_weights_are_an_error_that_names_them(name: str, tmp_path: Path, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        foreign_checkpoints.read(tmp_path / name)


@given(
    st.dictionaries(
        st.sampled_from(["encoder", "small_images", "image_size", "mean", "std", "stem_padding"]),
        st.sampled_from(["resnet10-narrow", "true", "null", "[]", "32", "[0.5, 0.5, 0.5]", "[" * DEEP, "1" * 5000]),
    )
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_safetensors_that_say_something_else_are_an_error_that_names_them(
    tmp_path_factory: pytest.TempPathFactory, said: dict[str, str]
) -> None:
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("said") / "weights.safetensors"
    save_file({"a": torch.zeros(1)}, path, said)
    said = refusal(lambda: foreign_checkpoints.read(path), ERRORS)
    assert not said or "weights.safetensors" in said
    assert "\n" not in said
