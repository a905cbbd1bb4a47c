"""Commands start without heavy imports: the producer does not import engine packages or start threads."""

import subprocess
import sys

BLOCKED = ("torch", "transformers", "vllm", "workers")


def test_producer_imports_without_engines_and_workers() -> None:
    blocked = "; ".join(f"sys.modules[{name!r}] = None" for name in BLOCKED)
    code = f"import sys; {blocked}; import producer.cli, threading; assert threading.active_count() == 1"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_workers_import_without_engines() -> None:
    blocked = "; ".join(f"sys.modules[{name!r}] = None" for name in BLOCKED[:3])
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {blocked}; import workers.app, workers.execution.task"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_launcher_does_not_import_service_clients() -> None:
    heavy = "{'celery', 'pyarrow', 'PIL', 'redis', 'httpx2', 'workers.runtime', 'workers.engines', 'jinja2'}"
    code = f"import workers.supervisor.launcher, sys; found = {heavy} & set(sys.modules); assert not found, found"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_help_does_not_import_service_clients() -> None:
    heavy = "{'celery', 'pyarrow', 'PIL', 'redis', 'httpx2', 'numpy', 'pydantic', 'rich', 'jinja2'}"
    for command in ("producer", "workers"):
        code = f"import {command}.cli, sys; found = {heavy} & set(sys.modules); assert not found, found"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, (command, done.stderr)


def test_default_prompt_is_resolved_without_jinja() -> None:
    code = (
        "from pathlib import Path; from common.spec.files import read_specs; import sys; "
        "read_specs(Path('examples/demo.yaml')); assert 'jinja2' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
