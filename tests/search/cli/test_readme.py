"""The README's own example runs as it is written."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_own_task_of_the_readme_sweeps(tmp_path: Path) -> None:
    (block,) = re.findall(r"test_readme.py runs this block -->\n```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    assert len(block.splitlines()) <= 22
    (tmp_path / "my_task.py").write_text(block)
    command = [sys.executable, "-m", "search", "sweep", str(ROOT / "examples/digits.toml"), "task.name=my_task:make", "name=mine"]
    answer = subprocess.run(
        [*command, "search.trials=12", "--log", "plain"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{ROOT}:{tmp_path}", "HOME": str(tmp_path), "BITFRONT_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert re.fullmatch(r"mine [0-9a-f]{32}", answer.stdout.splitlines()[-1])
