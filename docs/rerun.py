"""Run every notebook from the top in a clean kernel, and compare with what is committed: `python docs/rerun.py [NAME …]`.

Prints the seconds of each and the cells whose outputs differ; the exit code is 1 if any does, or takes more than two minutes. Nothing is written."""
import os, sys, tempfile, time
from pathlib import Path
import nbformat
from nbclient import NotebookClient
from nbdev.clean import clean_nb
from execnb.nbio import read_nb, write_nb

os.environ['OMP_NUM_THREADS'] = '1'                      # with more, sums are done in another order on another machine
NBS = Path(__file__).resolve().parents[1]/'nbs'

def outputs(cell):
    "What a reader sees of a code cell: texts as they are, streams joined; pictures byte for byte."
    seen = []
    for o in cell.get('outputs', []):
        data = {'text/plain': o['text']} if o['output_type'] == 'stream' else o.get('data', {'error': o.get('ename')})
        new = {k: ''.join(v) if isinstance(v, list) else v for k, v in data.items()}
        if seen and o['output_type'] == 'stream' and seen[-1][0] == 'stream': seen[-1][1]['text/plain'] += new['text/plain']
        else: seen.append((o['output_type'], new))
    return seen

def cleaned(path):
    nb = read_nb(path)
    clean_nb(nb)
    return nb

def rerun(path):
    "Cells that differ, and seconds."
    nb, start = nbformat.read(path, as_version=4), time.perf_counter()
    NotebookClient(nb, timeout=600, kernel_name='python3', resources={'metadata': {'path': str(NBS)}}).execute()
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        write_nb(nb, Path(folder)/path.name)
        new, old = cleaned(Path(folder)/path.name), cleaned(path)
    return [i for i, (a, b) in enumerate(zip(new.cells, old.cells)) if a.cell_type == 'code' and outputs(a) != outputs(b)], seconds

if __name__ == '__main__':
    bad = False
    for path in sorted(NBS.glob('*.ipynb')):
        if sys.argv[1:] and path.stem not in sys.argv[1:]: continue
        cells, seconds = rerun(path)
        bad |= bool(cells) or seconds > 120
        print(f'{path.stem:22s}{seconds:7.1f} s   ' + (f'different: cells {cells}' if cells else 'the same outputs'), flush=True)
    sys.exit(bad)
