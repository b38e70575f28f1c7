"""The build time reads the image formats that the service reads."""

from __future__ import annotations

from model_export.image_formats import SUFFIXES_OF
from service.inference.formats import FORMATS


def test_the_exporter_and_the_trainer_read_the_formats_and_suffixes_that_the_service_reads() -> (
    None
):
    assert {row.name: row.suffixes for row in FORMATS} == SUFFIXES_OF
