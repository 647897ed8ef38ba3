"""The runner of the docs' examples runs them all, in order, and notices those that fail."""

from pathlib import Path

import pytest
from tests import clients
from tests.docs_runner import ExampleError, examples, run_page

PAGE = """
# A page

```sh
echo "first $WHAT" >> log
HELD=sh
```

```
this is not run
```

```python
import os
held = os.environ["WHAT"]
with open("log", "a") as log:
    log.write("second\\n")
```

```sh
echo "third $HELD" >> log
```

```python
with open("log", "a") as log:
    log.write(f"fourth {held}\\n")
```

```json
{"not": "run"}
```
"""
NODE = "```js\nimport fs from 'node:fs';\nconst a = 1;\n```\n\n```js\nfs.writeFileSync('a', String(await a));\n```\n"


def _page(folder: Path, text: str) -> Path:
    page = folder / "page.md"
    page.write_text(text)
    return page


def test_blocks_run_in_the_order_of_the_page_and_share_their_languages_session(tmp_path: Path) -> None:
    page = _page(tmp_path, PAGE)
    assert [(block.language, block.line) for block in examples(page)] == [
        ("sh", 5),
        ("python", 14),
        ("sh", 21),
        ("python", 25),
    ]
    run_page(page, {"WHAT": "x"}, tmp_path)
    assert (tmp_path / "log").read_text() == "first x\nsecond\nthird sh\nfourth x\n"


@pytest.mark.skipif(clients.missing() is not None, reason=f"JavaScript: {clients.missing()}")
def test_javascript_is_one_module(tmp_path: Path) -> None:
    run_page(_page(tmp_path, NODE), {}, tmp_path)
    assert (tmp_path / "a").read_text() == "1"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("```sh\ntrue\n```\n\n```sh\necho told; false | true\n```\n", "page.md:6: sh: ended with status 1\ntold"),
        ("```python\n1 / 0\n```\n", "page.md:2: python: ended with status 1"),
        ("```sh\ncurl http://127.0.0.1:9/\n```\n", "page.md:2: sh: ended with status 7"),
        ("```python\nthis is no program\n```\n", "SyntaxError"),
        ("```sh\nsleep 600\n```\n", "page.md:2: sh: did not end in time"),
        (
            "```python\nimport threading\nthreading.Thread(target=threading.Event().wait).start()\n```\n",
            "page.md: python after its last block: did not end in time",
        ),
    ],
)
def test_an_example_that_fails_is_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ExampleError) as failure:
        run_page(_page(tmp_path, text), {}, tmp_path, timeout_s=1)
    assert says in str(failure.value)
