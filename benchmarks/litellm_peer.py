"""LiteLLM's proxy, from the package index, in an environment of its own: the peer the gateway is measured against."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarks.processes import ROOT, free_port, running_program, wait_for

ENVIRONMENT = ROOT / "data" / "bench-litellm"
LITELLM = "1.106.2"
REQUIREMENT = f"litellm[proxy]=={LITELLM}"
KEY = "sk-bench-" + "0" * 32
INSTALL_S = 600.0


def install() -> Path | None:
    """The proxy's program, installed once; `None` when the package index does not give it."""
    program = ENVIRONMENT / "bin" / "litellm"
    if program.exists():
        return program
    print("installing LiteLLM for the comparison …", file=sys.stderr)
    try:
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True, timeout=INSTALL_S)
        pip = [str(ENVIRONMENT / "bin" / "pip"), "install", "--quiet", REQUIREMENT]
        subprocess.run(pip, check=True, timeout=INSTALL_S)
    except (subprocess.SubprocessError, OSError) as error:
        print(f"LiteLLM is not measured: {error}", file=sys.stderr)
        return None
    return program


@contextmanager
def litellm_proxy(folder: Path, provider_port: int, core: int) -> Iterator[tuple[psutil.Process, int] | None]:
    """A running proxy in front of the fake provider; `None` when it cannot be had."""
    program = install()
    if program is None:
        yield None
        return
    config = folder / "litellm.yaml"
    config.write_text(
        "model_list:\n- model_name: gpt-4o-mini\n  litellm_params:\n"
        f"    {{model: openai/gpt-4o-mini, api_base: 'http://127.0.0.1:{provider_port}/v1', api_key: sk-fake}}\n"
        "litellm_settings: {telemetry: false}\n"
    )
    port = free_port()
    command = [str(program), "--config", str(config), "--port", str(port), "--host", "127.0.0.1", "--num_workers", "1"]
    env = {"LITELLM_MASTER_KEY": KEY, "LITELLM_LOG": "ERROR"}
    with running_program(command, core=core, env=env, log=folder / "litellm.log") as process:
        wait_for(port, "/health/liveliness", folder / "litellm.log")
        yield process, port
