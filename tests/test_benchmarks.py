"The benchmarks can be run: each starts, and says what it can do."
import subprocess, sys
from pathlib import Path
import pytest

BENCHMARKS = sorted(p for p in (Path(__file__).resolve().parents[1]/'benchmarks').glob('*.py') if p.stem != 'common')

@pytest.mark.parametrize('benchmark', BENCHMARKS, ids=lambda p: p.stem)
def test_starts(benchmark):
    run = subprocess.run([sys.executable, benchmark, '--help'], capture_output=True, text=True)
    assert run.returncode == 0 and '--out' in run.stdout, run.stderr
