"The package as a user gets it: built, installed, imported."
import subprocess, sys, zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PUBLIC = '''solve Picard Anderson fixed_point Implicit DEQ Solution Status ConvergenceWarning ConvergenceError
    IRNN RootIRNN affine_scan signed_scan rotation_scan'''.split()

def test_public_names():
    import deq_irnn
    assert not [n for n in PUBLIC if not hasattr(deq_irnn, n)]

def test_import_needs_torch_alone():
    "Neither plotting, nor notebooks, nor data sets are needed to `import deq_irnn`."
    code = '''if True:
        import sys, time, torch
        before, start = set(sys.modules), time.perf_counter()
        import deq_irnn
        new = {m.split('.')[0] for m in set(sys.modules) - before}
        print(*sorted(new & {'matplotlib', 'sklearn', 'nbdev', 'fastcore', 'IPython', 'tqdm', 'scipy', 'numpy', 'pandas', 'triton'}))'''
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.split() == []

def test_wheel_holds_the_package(tmp_path):
    "Built from the files that git would ship, in a copy, so that nothing is left behind here."
    names = subprocess.run(['git', 'ls-files', '-co', '--exclude-standard', 'setup.py', 'settings.ini', 'README.md', 'LICENSE', 'deq_irnn'], capture_output=True,
                           text=True, check=True, cwd=ROOT).stdout.split()
    for n in names: (tmp_path/n).parent.mkdir(exist_ok=True); (tmp_path/n).write_bytes((ROOT/n).read_bytes())
    subprocess.run([sys.executable, '-m', 'pip', 'wheel', '-qq', '--no-deps', '--no-build-isolation', '-w', tmp_path/'out', tmp_path], check=True)
    with zipfile.ZipFile(next((tmp_path/'out').glob('*.whl'))) as wheel:
        inside = wheel.namelist()
        meta = wheel.read(next(n for n in inside if n.endswith('METADATA'))).decode()
    assert {n for n in inside if n.startswith('deq_irnn/')} == {n for n in names if n.startswith('deq_irnn/')}
    assert 'deq_irnn/py.typed' in inside, 'type checkers must know that the package has types'
    assert [line for line in meta.splitlines() if line.startswith('Requires-Dist') and 'extra' not in line] == ['Requires-Dist: torch>=2.4']
