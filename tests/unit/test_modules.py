import ast
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_no_test_module_imports_from_another() -> None:
    imports = {
        f"{file.relative_to(TESTS)} imports from {node.module}"
        for file in TESTS.glob("*/*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and ".test_" in (node.module or "")
    }
    assert imports == set()
