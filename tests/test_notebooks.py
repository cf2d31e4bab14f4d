"Every notebook runs from the top; notebooks, library and README are in step."
import json, os, subprocess, sys
from pathlib import Path
import pytest, torch.distributed.fsdp

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT/'nbs').glob('*.ipynb'))
BIN = Path(sys.executable).parent

def environment():
    "nbdev's own test runner leaves IN_TEST behind, and with it nbdev_export silently does nothing."
    return {k: v for k, v in os.environ.items() if k != 'IN_TEST'}

@pytest.mark.parametrize('notebook', NOTEBOOKS, ids=lambda p: p.stem)
def test_runs(notebook, monkeypatch):
    if notebook.stem == '35_kernel': pytest.importorskip('triton', reason='Triton has no wheel for this system')
    if notebook.stem == '93_several_gpus' and not hasattr(torch.distributed.fsdp, 'fully_shard'): pytest.skip('shards on the CPU, which torch before 2.6 cannot')
    from nbdev.test import test_nb as run          # imported here: pytest would collect it
    monkeypatch.setenv('IN_TEST', '1')
    monkeypatch.chdir(notebook.parent)
    ok, _ = run(notebook, do_print=False)
    assert ok

def test_library_is_what_the_notebooks_export(tmp_path):
    "Export into an empty package and compare both ways: an edited .py, an orphan module, a stale index all show."
    for name in ('settings.ini', '_quarto.yml', 'nbs'):
        subprocess.run(['cp', '-a', ROOT/name, tmp_path/name], check=True)
    (tmp_path/'deq_irnn').mkdir(); (tmp_path/'deq_irnn/__init__.py').write_text((ROOT/'deq_irnn/__init__.py').read_text())
    subprocess.run([BIN/'nbdev_export'], cwd=tmp_path/'nbs', env=environment(), check=True)
    made, kept = ({p.name: p.read_text() for p in (d/'deq_irnn').glob('*.py')} for d in (tmp_path, ROOT))
    assert set(made) == set(kept), 'a module without its notebook, or the other way round'
    for name in made: assert made[name] == kept[name], f'{name} is not what its notebook exports: run make lib'

def test_notebooks_are_clean(tmp_path):
    for n in NOTEBOOKS:
        (tmp_path/n.name).write_bytes(n.read_bytes())
        subprocess.run([BIN/'nbdev_clean', '--fname', tmp_path/n.name], env=environment(), check=True, cwd=ROOT)
        assert (tmp_path/n.name).read_bytes() == n.read_bytes(), f'{n.name} is not clean: run make lib'

def test_readme_is_what_the_index_makes():
    subprocess.run([sys.executable, ROOT/'docs/readme.py', '--check'], check=True, env=environment())

def test_every_notebook_is_in_the_sidebar():
    sidebar = (ROOT/'nbs/sidebar.yml').read_text()
    assert not [n.name for n in NOTEBOOKS if n.name not in sidebar]

@pytest.mark.parametrize('notebook', NOTEBOOKS, ids=lambda p: p.stem)
def test_outputs_are_sound_and_small(notebook):
    for cell in json.loads(notebook.read_text())['cells']:
        for out in cell.get('outputs', []):
            assert out['output_type'] != 'error', f'{notebook.name} was saved with an error'
            assert len(out.get('data', {}).get('image/png', '')) < 110_000, 'a picture of more than 80 kB'
