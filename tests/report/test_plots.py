"""Plots take the colours of their page, keep their ids to themselves, and show foreign names as text."""

import re
import xml.etree.ElementTree as ET

import pytest

pytest.importorskip("matplotlib")

from lora_ns.report.page import LIGHT
from lora_ns.report.plots import Band, Cells, Level, Line, Plot, Points, svg, write

LAYERS = {
    "line": [Line([1, 2, 3], [3.0, float("nan"), 1.0], "<b>$x^2$</b>")],
    "one point": [Line([1], [3.0])],
    "band": [Band([1, 2], [0, 1], [2, 3], "band")],
    "points": [Points([1, 2], [1, 2], "_hidden", low=[0.5, None], high=[1.5, None])],
    "level": [Line([1, 2], [1, 2]), Level(1.5, "planned")],
    "cells": [Cells(["a", "<script>", "c" * 90], [[3, 0, 1], [0, 0, 0], [1, 1, 9]])],
    "large": [Line([0, 200_000], [1e9, 5e9])],
}


@pytest.mark.parametrize(("name", "is_log"), [*((name, False) for name in LAYERS), ("line", True), ("points", True)])
def test_a_plot_is_one_element_in_the_colours_of_the_page(name, is_log):
    text = svg(Plot("key", "A <title>", "It & falls", LAYERS[name], is_log=is_log))
    element = ET.fromstring(text)
    assert element[0].text == "A <title>: It & falls"
    assert element.get("role") == "img"
    assert not re.findall(r"#[0-9a-f]{6}\b", text)
    assert set(re.findall(r"var\(--(\w+)\)", text)) <= LIGHT.keys()
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    assert all(one.startswith("key-") for one in ids)
    targets = re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', text)
    assert {one or other for one, other in targets} <= set(ids)
    assert "script" not in {one.tag.rpartition("}")[2] for one in element.iter()}


def test_the_same_plot_is_the_same_text():
    plot = Plot("key", "t", "a", LAYERS["line"])
    assert svg(plot) == svg(plot)


@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml")])
def test_a_plot_is_written_to_a_file(tmp_path, suffix, start):
    write(Plot("key", "t", "a", LAYERS["line"]), tmp_path / f"plot{suffix}")
    content = (tmp_path / f"plot{suffix}").read_bytes()
    assert content.startswith(start)
    assert b"0c0d" not in content.lower() or suffix == ".png"
