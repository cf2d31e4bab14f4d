"Every recipe runs, and trains. Those that need another package: `make extras`; skipped where it is missing."
import importlib, sys
from pathlib import Path
import pytest

FOLDER = Path(__file__).resolve().parents[1]/'recipes'
NEEDS = {'plain_loop': 'torch', 'with_lightning': 'lightning', 'with_transformers': 'transformers', 'with_safetensors': 'safetensors', 'with_tensorboard': 'tensorboard'}

@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    def load(name):
        pytest.importorskip(NEEDS[name], reason=f'needs {NEEDS[name]}: make extras')
        sys.modules.pop(name, None)
        return importlib.import_module(name)
    return load

def test_each_has_a_test_and_fits_a_page():
    files = {p.stem: p.read_text().splitlines() for p in FOLDER.glob('*.py')}
    assert set(files) == set(NEEDS) and all(len(lines) <= 40 for lines in files.values())

@pytest.mark.parametrize('name', ['plain_loop', 'with_lightning', 'with_transformers'])
def test_it_learns(recipe, name):
    losses = recipe(name).main()
    assert sum(losses[-10:])/10 < .8*losses[0], losses

def test_safetensors(recipe): assert recipe('with_safetensors').main() == 0

def test_tensorboard(recipe, tmp_path):
    recipe('with_tensorboard').main(str(tmp_path), 3)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(tmp_path)); events.Reload()
    tags = events.Tags()
    assert len(events.Scalars('loss')) == 3 and any('evaluations' in t for t in tags['scalars']) and any('iterations' in t for t in tags['histograms'])
