"""Whole-process seconds of `textless --help` against `import click`, and of a no-op `run` over a real corpus against
`import torch`.

python bench/startup.py PIPELINE [-s NAME=VALUE …] [--store DIR]      # the pipeline must have been run
"""

import subprocess
import sys

from common import compare, header


def process(*args: str):
    return lambda: subprocess.run([sys.executable, *args], check=True, stdout=subprocess.DEVNULL)


header("start-up, whole processes")
ours, theirs, _ = compare(process("-m", "textless", "--help"), process("-c", "import click"))
print(f"textless --help       {ours:.3f} s      import click  {theirs:.3f} s")
if sys.argv[1:]:
    ours, theirs, _ = compare(process("-m", "textless", "run", *sys.argv[1:]), process("-c", "import torch"))
    print(f"textless run, no-op   {ours:.3f} s      import torch  {theirs:.3f} s")
