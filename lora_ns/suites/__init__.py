"""Suites: the questions of an evaluation and the figures of their answers. Each kind is a class in its own file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, get_args

from pydantic import Field

from lora_ns.suites.base import Asks, Gold, Suite
from lora_ns.suites.bleu import BleuSuite
from lora_ns.suites.choice import ChoiceSuite
from lora_ns.suites.chrf import ChrfSuite
from lora_ns.suites.code import CodeSuite
from lora_ns.suites.contains import ContainsSuite
from lora_ns.suites.drift import DriftSuite
from lora_ns.suites.exact_match import ExactMatchSuite
from lora_ns.suites.glue import GlueSuite
from lora_ns.suites.held_out import HeldOutSuite
from lora_ns.suites.json_schema import JsonSchemaSuite
from lora_ns.suites.judge import JudgeSuite
from lora_ns.suites.lm_eval import LmEvalSuite
from lora_ns.suites.math import MathSuite
from lora_ns.suites.number import NumberSuite
from lora_ns.suites.regex import RegexSuite
from lora_ns.suites.rouge import RougeSuite
from lora_ns.suites.tool_calls import ToolCallsSuite

__all__ = [
    "SUITES",
    "AnySuite",
    "Asks",
    "ChoiceSuite",
    "CodeSuite",
    "DriftSuite",
    "ExactMatchSuite",
    "GlueSuite",
    "Gold",
    "HeldOutSuite",
    "JudgeSuite",
    "LmEvalSuite",
    "Suite",
]

AnySuite = Annotated[
    HeldOutSuite
    | ExactMatchSuite
    | NumberSuite
    | MathSuite
    | ContainsSuite
    | RegexSuite
    | JsonSchemaSuite
    | ChoiceSuite
    | RougeSuite
    | BleuSuite
    | ChrfSuite
    | ToolCallsSuite
    | CodeSuite
    | JudgeSuite
    | DriftSuite
    | LmEvalSuite
    | GlueSuite,
    Field(discriminator="kind"),
]
"""A suite of the recipe, a union discriminated by `kind`."""

SUITES: Mapping[str, type[Suite]] = {
    kind.model_fields["kind"].default: kind for kind in get_args(get_args(AnySuite)[0])
}
"""Suites by kind."""
