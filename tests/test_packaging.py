"The package as it leaves the house: the sdist is whole, it installs elsewhere and runs; CI asks for what exists."
import ast, configparser, json, re, subprocess, sys, tarfile, zipfile
from itertools import product
from pathlib import Path
import pytest, yaml

ROOT = Path(__file__).resolve().parents[1]
DROP_IN = '''
import sys
sys.path = [p for p in sys.path if 'deq_irnn' not in p]
import torch, deq_irnn
print(deq_irnn.__file__)
rnn = deq_irnn.RootIRNN(3, 16)
output, h_n = rnn(torch.randn(20, 2, 3))
output.sum().backward()
assert rnn.last[0].solution.converged.all() and h_n.shape == (1, 2, 16)
'''

def clone(folder):
    "What a clone of this repository would hold."
    names = subprocess.run(['git', 'ls-files', '-co', '--exclude-standard'], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split('\n')
    for n in names:
        if not n or not (ROOT/n).is_file() or n.startswith(('results/', 'benchmarks/', 'nbs/')) and not n.startswith('nbs/images'): continue
        (folder/n).parent.mkdir(parents=True, exist_ok=True); (folder/n).write_bytes((ROOT/n).read_bytes())
    return folder

@pytest.fixture(scope='module')
def sdist(tmp_path_factory):
    "Built as `python -m build` does, by the backend that pyproject.toml names, but without downloading it."
    folder = clone(tmp_path_factory.mktemp('clone'))
    code = 'from setuptools import build_meta; print(build_meta.build_sdist("dist"))'
    subprocess.run([sys.executable, '-c', code], cwd=folder, check=True, capture_output=True)
    return next((folder/'dist').glob('deq_irnn-*.tar.gz'))

@pytest.fixture(scope='module')
def installed(sdist, tmp_path_factory):
    "The sdist unpacked and installed into an empty folder."
    folder = tmp_path_factory.mktemp('target')
    command = [sys.executable, '-m', 'pip', 'install', '-qq', '--no-deps', '--no-build-isolation', '--target', folder/'site', sdist]
    subprocess.run(command, check=True, cwd=folder)
    return folder/'site'

def test_the_sdist_is_whole(sdist):
    with tarfile.open(sdist) as tar: inside = {n.partition('/')[2] for n in tar.getnames()}
    package = {p.relative_to(ROOT).as_posix() for p in (ROOT/'deq_irnn').glob('*.py')}
    assert package | {'settings.ini', 'setup.py', 'pyproject.toml', 'README.md', 'LICENSE', 'deq_irnn/py.typed'} <= inside

def test_it_runs_where_nothing_else_of_ours_is(installed, tmp_path):
    "Outside of the repository, from the folder in which the sdist was installed."
    run = subprocess.run([sys.executable, '-c', DROP_IN], env={'PYTHONPATH': str(installed), 'OMP_NUM_THREADS': '1', 'PATH': ''}, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert Path(run.stdout.split()[0]).is_relative_to(installed), 'another copy was imported'

def test_the_command_is_installed(installed, tmp_path):
    script = next((installed/'bin').glob('deq-irnn*'))
    run = subprocess.run([sys.executable, script, '--help'], env={'PYTHONPATH': str(installed), 'PATH': ''}, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0 and 'study' in run.stdout, run.stderr

def metadata(installed): return next(installed.glob('deq_irnn-*.dist-info')).joinpath('METADATA').read_text()

def test_metadata_says_who_it_is_for(installed):
    meta = metadata(installed)
    for line in ('Requires-Python: >=3.10', 'License-Expression: Apache-2.0', 'Classifier: Typing :: Typed', 'Classifier: Programming Language :: Python :: 3.13',
                 'Description-Content-Type: text/markdown', *(f'Provides-Extra: {e}' for e in ('study', 'data', 'onnx', 'recipes', 'dev'))): assert line in meta, line

def test_urls_are_those_of_settings(tmp_path):
    "None where settings.ini has none; all three where it has."
    cfg = configparser.ConfigParser(delimiters=['='], interpolation=None); cfg.read(ROOT/'settings.ini')
    assert not cfg['DEFAULT']['git_url'] or cfg['DEFAULT']['git_url'].startswith('https://')
    folder = clone(tmp_path)
    text = (folder/'settings.ini').read_text()
    text = re.sub(r'(?m)^git_url =.*', 'git_url = https://example.org/deq_irnn', text)
    (folder/'settings.ini').write_text(re.sub(r'(?m)^doc_host =.*', 'doc_host = https://docs.example.org', text))
    subprocess.run([sys.executable, 'setup.py', '-q', 'egg_info'], cwd=folder, check=True, capture_output=True)
    meta = (folder/'deq_irnn.egg-info/PKG-INFO').read_text()
    for line in ('Source, https://example.org/deq_irnn', 'Issues, https://example.org/deq_irnn/issues', 'Documentation, https://docs.example.org'):
        assert f'Project-URL: {line}' in meta, line

def test_the_citation_and_the_package_agree():
    import deq_irnn
    cff = yaml.safe_load((ROOT/'CITATION.cff').read_text())
    assert cff['version'] == deq_irnn.__version__ and cff['license'] == 'Apache-2.0'

# ---- CI

WORKFLOWS = sorted((ROOT/'.github/workflows').glob('*.yaml'))

def test_workflows_ask_for_targets_that_exist():
    targets = set(re.findall(r'(?m)^([a-z]+):', (ROOT/'Makefile').read_text()))
    assert {w.stem for w in WORKFLOWS} == {'test', 'deploy'}
    for w in WORKFLOWS:
        for job in yaml.safe_load(w.read_text())['jobs'].values():
            asked = [t for step in job['steps'] for t in re.findall(r'make ([a-z]+)', step.get('run', ''))]
            assert set(asked) <= targets, set(asked) - targets

def test_ci_covers_what_the_metadata_promises(installed):
    matrix = yaml.safe_load((ROOT/'.github/workflows/test.yaml').read_text())['jobs']['test']['strategy']['matrix']
    promised = re.findall(r'Classifier: Programming Language :: Python :: (3\.\d+)', metadata(installed))
    assert sorted(matrix['python']) == sorted(promised)
    left_out = [(e['python'], e['torch']) for e in matrix['exclude']]
    assert set(left_out) < set(product(matrix['python'], matrix['torch'])) and any('2.4' in t for t in matrix['torch'])

# ---- the tools of the house

@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT/'docs'))
    return lambda name: __import__(name)

def test_readme_links_lead_somewhere_on_pypi_too(tool, monkeypatch, tmp_path):
    "Where settings.ini knows the repository; as they are where it does not."
    readme = tool('readme')
    text = 'See [x](nbs/01_solvers.ipynb#a), [y](https://a.b/c), ![png](nbs/images/i.png), [z](#z)'
    monkeypatch.setattr(readme, 'root', tmp_path)
    (tmp_path/'settings.ini').write_text('[DEFAULT]\nbranch = main\ngit_url =\n')
    assert readme.absolute(text) == text
    (tmp_path/'settings.ini').write_text('[DEFAULT]\nbranch = main\ngit_url = https://h.org/r\n')
    assert readme.absolute(text) == 'See [x](https://h.org/r/blob/main/nbs/01_solvers.ipynb#a), [y](https://a.b/c), ![png](https://h.org/r/raw/main/nbs/images/i.png), [z](#z)'

def test_quick_knows_what_a_chapter_needs(tool):
    quick = tool('quick')
    assert quick.tests('05_scan') == ['tests/test_notebooks.py::test_runs[05_scan]', 'tests/test_notebooks.py::test_outputs_are_sound_and_small[05_scan]', 'tests/test_scan.py']
    assert len(quick.tests('90_choosing')) == 2
    with pytest.raises(SystemExit, match='05_scans must be one of'): quick.tests('05_scans')

def test_ruff_is_told_what_the_house_test_holds():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has none")
    ruff = tomllib.loads((ROOT/'pyproject.toml').read_text())['tool']['ruff']
    width = re.search(r'(?m)^WIDTH = (\d+)', (ROOT/'tests/test_house.py').read_text())[1]
    assert ruff['line-length'] == int(width)

# ---- what a reader copies

def shown_and_hidden(path):
    "The code of a notebook that its page shows, and the code that it does not."
    parts = [], []
    for cell in json.loads(path.read_text())['cells']:
        code = ''.join(cell['source'])
        if cell['cell_type'] == 'code': parts[bool(re.search(r'^#\|\s*(hide|echo: false)', code, re.M))].append(code)
    return map('\n'.join, parts)

@pytest.mark.parametrize('page', ['index', '46_deploy', *(p.stem for p in sorted((ROOT/'nbs').glob('9[1-9]*.ipynb')))])
def test_a_page_shows_what_its_code_needs(page):
    "No name that only a hidden cell gives: whoever copies the page from top to bottom can run it."
    shown, hidden = (ast.walk(ast.parse(code)) for code in shown_and_hidden(ROOT/f'nbs/{page}.ipynb'))
    def given(nodes):
        for n in nodes:
            if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store): yield n.id
            elif isinstance(n, (ast.FunctionDef, ast.ClassDef)): yield n.name
            elif isinstance(n, ast.alias): yield (n.asname or n.name).partition('.')[0]
            elif isinstance(n, ast.arg): yield n.arg
    shown = list(shown)
    needed = {n.id for n in shown if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    assert not (needed - set(given(shown))) & set(given(hidden))
