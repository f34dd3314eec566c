"""An evaluation as a JUnit file, which CI servers show."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from lora_ns.files.disk import write_atomic
from lora_ns.safety.printable import readable
from lora_ns.services.evaluate import EvaluateResult
from lora_ns.services.gates import Gate


def write_junit(file: Path, run: str, result: EvaluateResult, gates: Sequence[Gate]) -> None:
    """Write the figures as properties and each gate as a test case.

    Args:
        file: the file to write.
        run: name of the run.
        result: the evaluation.
        gates: its gates; without any, one case says that the evaluation was made.

    Raises:
        RunError: if the file cannot be written.
    """
    cases = gates or [Gate("evaluated", passed=True, told=f"{result.rows:,} rows")]
    failures = str(sum(not gate.passed for gate in cases))
    root = Element("testsuites", name="lorans eval", tests=str(len(cases)), failures=failures)
    suite = SubElement(root, "testsuite", name=readable(run), tests=str(len(cases)), failures=failures, errors="0")
    properties = SubElement(suite, "properties")
    for name, value in result.metrics.items():
        SubElement(properties, "property", name=readable(name), value=f"{value:.6g}")
    for gate in cases:
        case = SubElement(suite, "testcase", classname=readable(run), name=readable(gate.name))
        if not gate.passed:
            SubElement(case, "failure", message=readable(gate.told))
    indent(root)
    write_atomic(file, f"{tostring(root, encoding='unicode', xml_declaration=True)}\n")
