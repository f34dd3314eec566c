"""`json-schema`: the answer is JSON that a schema accepts."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from lora_ns.rewards import RewardFunction
from lora_ns.rewards.json_schema import JsonSchema
from lora_ns.suites.base import JudgedSuite


class JsonSchemaSuite(JudgedSuite):
    """Share of answers that are JSON and fit the schema."""

    kind: Literal["json-schema"] = "json-schema"
    json_schema: dict[str, Any] = Field(default_factory=dict)
    """JSON Schema, as a TOML table; an empty one accepts any JSON."""

    figure: ClassVar[str] = "json_schema"
    package: ClassVar[str] = "jsonschema"

    @property
    def judge(self) -> RewardFunction:
        """The reward function of the same name."""
        return JsonSchema(json_schema=self.json_schema)
