"""What the tests of importers share."""

from pathlib import Path

import pytest

from lora_ns.importers.registry import IMPORTERS, importer_for
from lora_ns.importers.source import parse_source

SAMPLES = Path(__file__).parent / "samples"


@pytest.fixture
def translate():
    """Translates a text, of a tool if one is named."""

    def translates(text, tool=None, gpus=1, name="config.yaml"):
        source = parse_source(Path(name), text)
        return (IMPORTERS[tool] if tool else importer_for(source)).translate(source, gpus)

    return translates
