"""Which tests run which lines, and for how long each test takes."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest

# What is called before every statement, with the statement's place.
HIT = "__profit_optax_line__"


class _Telling(ast.NodeTransformer):
    def __init__(self, module: str):
        self.module = module

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self._tell(node)
        return node

    def _tell(self, node: Any) -> None:
        for field in ("body", "orelse", "finalbody", "handlers"):
            body = getattr(node, field, None)
            if not isinstance(body, list):
                continue
            told = []
            for statement in body:
                if isinstance(statement, ast.stmt) and not _is_docstring(statement):
                    call = ast.Call(ast.Name(HIT, ast.Load()), [ast.Constant(f"{self.module}:{statement.lineno}")], [])
                    told.append(ast.copy_location(ast.Expr(call), statement))
                self._tell(statement)
                told.append(statement)
            setattr(node, field, told)


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, (ast.Nonlocal, ast.Global)) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    )


def telling(module: str, source: str) -> ast.Module:
    """A module that calls `HIT` before every statement of its functions."""
    return ast.fix_missing_locations(_Telling(module).visit(ast.parse(source)))


class Recorder:
    """A plugin of pytest that writes down what each test that passes ran."""

    def __init__(self, out: Path):
        self.out = out
        self.tests: dict[str, Any] = {}
        self.lines: set[str] = set()
        self.collected: set[str] = set()

    def hit(self, place: str) -> None:
        self.lines.add(place)

    def pytest_collection_finish(self) -> None:
        # What a test file makes when it is imported, all of its tests use.
        self.collected = self.lines

    def pytest_runtest_setup(self, item: Any) -> None:
        self.lines = set()

    def pytest_runtest_logreport(self, report: Any) -> None:
        test = self.tests.setdefault(report.nodeid, {"seconds": 0.0, "passed": True, "lines": []})
        test["seconds"] += report.duration
        test["passed"] &= report.outcome == "passed"
        if report.when == "teardown":
            test["lines"] = sorted(self.lines | self.collected)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        self.out.write_text(json.dumps(self.tests))
