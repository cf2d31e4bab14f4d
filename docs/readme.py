"README.md from nbs/index.ipynb, with the pictures of its cells as files beside the notebooks. `--check` only says whether README.md is up to date."
import configparser, re, sys
from pathlib import Path
import nbformat
from nbconvert import MarkdownExporter
from traitlets.config import Config

root = Path(__file__).resolve().parents[1]
NOTE = '<!-- Made from nbs/index.ipynb by `make readme`; edit the notebook. -->\n\n'

def absolute(text):
    "Links into the repository as links to where settings.ini says it is, so that they lead somewhere on PyPI too; as they are where it says nothing."
    cfg = configparser.ConfigParser(delimiters=['='], interpolation=None)
    cfg.read(root/'settings.ini', encoding='utf-8')
    home, branch = cfg['DEFAULT'].get('git_url', '').rstrip('/'), cfg['DEFAULT']['branch']
    if not home: return text
    def there(m): return f'{m[1]}]({home}/{"raw" if m[1].startswith("!") else "blob"}/{branch}/{m[2]})'
    return re.sub(r'(!?\[[^\]]*)\]\((?!https?:|#|mailto:)([^)\s]+)\)', there, text)

def hidden(cell, directive): return cell.cell_type == 'code' and re.search(rf'^#\|\s*{directive}', cell.source, re.M)

def readme():
    "The text of README.md and its pictures, {name: bytes}."
    nb = nbformat.read(root/'nbs/index.ipynb', as_version=4)
    nb.metadata['language_info'] = {'name': 'python'}                                   # for the fences
    nb.cells = [c for c in nb.cells if not hidden(c, 'hide')]
    for c in nb.cells:
        if hidden(c, 'echo: false'): c.metadata['transient'] = {'remove_source': True}
    text, resources = MarkdownExporter(config=Config(NbConvertBase=dict(display_data_priority=['image/png', 'text/markdown', 'text/plain']))).from_notebook_node(nb)
    pictures = {}
    for i, (name, data) in enumerate(resources['outputs'].items()):
        pictures[new := f'index-{i}.png'] = data
        text = text.replace(f'({name})', f'(nbs/images/{new})')
    text = re.sub(r'\]\((?!https?:|nbs/|#)([\w-]+\.ipynb)', r'](nbs/\1', text)            # chapters
    text = re.sub(r'\]\(images/', '](nbs/images/', text).replace('](../', '](')
    return NOTE + re.sub(r'\n{3,}', '\n\n', absolute(text)).strip() + '\n', pictures

if __name__ == '__main__':
    text, pictures = readme()
    files = {root/'README.md': text.encode(), **{root/'nbs/images'/n: d for n, d in pictures.items()}}
    stale = [str(p.relative_to(root)) for p, data in files.items() if not p.exists() or p.read_bytes() != data]
    if '--check' in sys.argv: sys.exit(f'out of date: {", ".join(stale)}; run make readme' if stale else 0)
    (root/'nbs/images').mkdir(exist_ok=True)
    for p, data in files.items(): p.write_bytes(data)
