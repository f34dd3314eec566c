"""`json-schema`: the completion is JSON that a schema accepts."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field

from lora_ns.files.reading import check_depth, finite
from lora_ns.rewards.base import Completion, RewardFunction
from lora_ns.safety.deadline import bounded
from lora_ns.table import Conflict, Probability


class JsonSchema(RewardFunction):
    """1 if the completion is JSON that fits the schema, `valid_json` if it is only JSON, else 0."""

    name: Literal["json-schema"] = "json-schema"
    json_schema: dict[str, Any] = Field(default_factory=dict)
    """JSON Schema, as a TOML table; an empty one accepts any JSON."""
    valid_json: Probability = 0.0
    """Score of JSON that does not fit the schema."""

    package: ClassVar[str] = "jsonschema"

    def conflicts(self, key: str) -> Iterator[Conflict]:
        """A schema whose `type` is none of JSON's; the package checks the rest when the scorer is made."""
        known = {"object", "array", "string", "number", "integer", "boolean", "null"}
        kinds = self.json_schema.get("type", "object")
        for kind in kinds if isinstance(kinds, list) else [kinds]:
            if kind not in known:
                what = f"JSON has no type {kind!r}"
                yield Conflict((f"{key}.json_schema",), what, f"write one of: {', '.join(sorted(known))}")

    def score(self, given: Completion) -> float:
        """1, `valid_json` or 0. Raises `OverrunError` if validation does not end."""
        try:
            found = json.loads(given.text, parse_float=finite, parse_constant=finite)
            check_depth(found)
        except (ValueError, RecursionError):
            return 0.0
        validator = _validator(json.dumps(self.json_schema, sort_keys=True))
        return 1.0 if bounded(lambda: validator.is_valid(found)) else self.valid_json


@functools.lru_cache(maxsize=8)
def _validator(schema: str) -> Any:
    import jsonschema

    table = json.loads(schema)
    kind = jsonschema.validators.validator_for(table, jsonschema.Draft202012Validator)
    kind.check_schema(table)
    return kind(table)
