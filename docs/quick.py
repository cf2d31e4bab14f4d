"""The tests that a change to one chapter needs: `python docs/quick.py 05_scan`; without a name, for every notebook that git sees changed.

The library is exported anew; the notebook runs from the top, and so do the tests of its module and of the house, until a minute has passed."""
import re, subprocess, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
ALWAYS = ['tests/test_house.py', 'tests/test_notebooks.py::test_library_is_what_the_notebooks_export']

def changed():
    "The notebooks that differ from the last commit, or are new."
    lines = subprocess.run(['git', 'status', '--porcelain', 'nbs'], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return sorted({Path(line[3:].split(' -> ')[-1]).stem for line in lines if line.endswith('.ipynb')})

def tests(stem):
    "What pytest is to run for one notebook: itself, and the file of its module's tests, if there is one."
    notebook = ROOT/f'nbs/{stem}.ipynb'
    if not notebook.is_file(): raise SystemExit(f'{stem} must be one of {", ".join(p.stem for p in sorted((ROOT/"nbs").glob("*.ipynb")))}')
    module = re.search(r'#\| default_exp (\w+)', notebook.read_text())
    own = f'tests/test_{module[1]}.py' if module else ''
    cases = [f'tests/test_notebooks.py::{name}[{stem}]' for name in ('test_runs', 'test_outputs_are_sound_and_small')]
    return cases + [own]*(ROOT/own).is_file()

if __name__ == '__main__':
    stems = [Path(name).stem for name in sys.argv[1:]] or changed()
    if not stems: raise SystemExit('nothing has changed in nbs/: name a notebook, such as NB=05_scan')
    chosen = [t for stem in stems for t in tests(stem)]
    subprocess.run([BIN/'nbdev_export'], cwd=ROOT/'nbs', check=True)
    print('quick:', *stems)
    sys.exit(subprocess.run([sys.executable, '-m', 'pytest', '-q', '-x', '--durations=3', *chosen, *ALWAYS], cwd=ROOT).returncode)
