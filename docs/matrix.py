"""Smoke tests on other versions of torch: `python docs/matrix.py torch==2.4.1 torch` makes an environment for each in .matrix/ and runs TESTS there.

PyPI's wheels for x86_64 Linux bring CUDA (some gigabytes each); PIP_INDEX_URL=https://download.pytorch.org/whl/cpu, where it can be reached, has small ones."""
import os, re, subprocess, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSIONS = ['torch==2.4.1', 'torch']           # the oldest that settings.ini allows, and the newest
TESTS = ['tests/test_devices.py', 'tests/test_deq.py', 'tests/test_irnn.py', 'tests/test_root_irnn.py', 'tests/test_scan.py', 'tests/test_deploy.py']
NEEDED = ['numpy', 'pytest', 'hypothesis', 'matplotlib', 'setuptools']

def environment(torch):
    "The Python of an environment with this torch, made where it is missing."
    folder = ROOT/'.matrix'/re.sub(r'[^\w.]+', '-', torch)
    python = folder/'bin/python'
    if not (folder/'.done').exists():
        subprocess.run([sys.executable, '-m', 'venv', folder], check=True)
        subprocess.run([python, '-m', 'pip', 'install', '-q', '--disable-pip-version-check', torch, *NEEDED], check=True)
        (folder/'.done').touch()
    return python

def smoke(torch):
    "pytest's exit status with this torch."
    python = environment(torch)
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'} | {'PYTHONPATH': str(ROOT)}
    found = subprocess.run([python, '-c', 'import torch; print(torch.__version__)'], capture_output=True, text=True, check=True, env=env).stdout.strip()
    print(f'== {torch}: torch {found}, Python {sys.version.split()[0]}', flush=True)
    return subprocess.run([python, '-m', 'pytest', '-q', *TESTS], cwd=ROOT, env=env).returncode

if __name__ == '__main__':
    failed = [torch for torch in sys.argv[1:] or VERSIONS if smoke(torch)]
    sys.exit(f'failed with {", ".join(failed)}' if failed else 0)
