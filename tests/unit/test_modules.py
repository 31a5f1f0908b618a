import ast
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_no_test_module_imports_from_another() -> None:
    # Most need not be parsed.
    texts = {file: file.read_text("utf-8") for file in TESTS.glob("*/*.py")}
    imports = {
        f"{file.relative_to(TESTS)} imports from {node.module}"
        for file, text in texts.items()
        if ".test_" in text
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom) and ".test_" in (node.module or "")
    }
    assert imports == set()
