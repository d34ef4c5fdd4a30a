"""What a process of ours writes to stderr is JSON lines, whoever wrote it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, threading, warnings
from {module} import configure_logging

async def forget():
    async def fail():
        raise ValueError("forgotten")
    task = asyncio.create_task(fail())
    await asyncio.sleep(0)
    await asyncio.sleep(0)

def in_thread():
    raise ValueError("in a thread")

configure_logging()
warnings.warn("CLIENT LIST command not supported")
asyncio.run(forget())
thread = threading.Thread(target=in_thread, name="timers")
thread.start()
thread.join()
raise ValueError("at last")
"""


@pytest.mark.parametrize("module", ["cartstore_workers.logs", "cartstore_api.logging"])
def test_every_line_is_json_when_libraries_warn_and_exceptions_are_caught_by_nobody(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(module=module)], capture_output=True, text=True, timeout=60
    )

    lines = [json.loads(line) for line in done.stderr.splitlines()]
    texts = [f"{line['logger']}: {line['message']} {line.get('error', '')}" for line in lines]
    assert (done.returncode, done.stdout, len(lines)) == (1, "", 4)
    assert texts[0].startswith("py.warnings: ")
    assert "CLIENT LIST command not supported" in texts[0]
    assert texts[1].startswith("asyncio: Task exception was never retrieved")
    assert texts[2] == "cartstore.logs: the thread timers ended by an exception ValueError: in a thread"
    assert texts[3] == "cartstore.logs: the process ends by an exception ValueError: at last"
