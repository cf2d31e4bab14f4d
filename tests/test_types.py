"The types are true: pyright (basic) finds nothing in the library, nor in a user's script, which runs."
import json, runpy, subprocess, sys
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parents[1]

@pytest.fixture(scope='module')
def complaints():
    "The errors that pyright finds in what pyrightconfig.json includes: (file, line, message)."
    checker = Path(sys.executable).parent/'basedpyright'          # pyright, as pip can install it
    run = subprocess.run([checker, '--outputjson', '--pythonpath', sys.executable], capture_output=True, text=True, cwd=ROOT)
    report = json.loads(run.stdout)
    assert report['summary']['filesAnalyzed'] > 10
    return [(Path(d['file']), d['range']['start']['line'] + 1, d['message'])
            for d in report['generalDiagnostics'] if d['severity'] == 'error']

def test_library(complaints):
    found = [f'{f.name}:{line}: {message}' for f, line, message in complaints if f.parent.name == 'deq_irnn']
    assert not found, '\n'.join(found)

def test_a_users_script(complaints):
    found = [f'{f.name}:{line}: {message}' for f, line, message in complaints if f.name == 'user.py']
    assert not found, '\n'.join(found)

def test_the_users_script_runs(): runpy.run_path(str(ROOT/'tests/user.py'))

def test_the_users_script_uses_every_public_class():
    import deq_irnn
    text = (ROOT/'tests/user.py').read_text()
    classes = {n for n in vars(deq_irnn) if isinstance(getattr(deq_irnn, n), type) and n[0] != '_'}
    missing = sorted(n for n in classes if n not in text)
    assert not missing, missing
