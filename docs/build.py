"""The documentation site. `python docs/build.py` makes _docs: by nbdev_docs where Quarto is on the PATH, else by Sphinx; `python docs/build.py FOLDER` by Sphinx always.

Sphinx needs no network and no other program. The notebooks under nbs/ become Sphinx pages here: hidden cells go, exported cells stay
(in a literate course the code is part of the text), equations get numbers, names and chapters get links, and what the chapter exports is listed at its end."""
import configparser, dataclasses, importlib, inspect, re, shutil, subprocess, sys
from pathlib import Path
import nbformat, yaml
from fastcore.docments import docments
from nbformat.v4 import new_markdown_cell

ROOT = Path(__file__).resolve().parents[1]
# what the adapter changes has a name; what it must leave alone (code, headings, formulas, links) has none
TOKEN = re.compile(r'''^```.*?^```|<!--.*?-->
    |^\#+[ ][^\n]*
    |^(?P<indent>[ ]*)\$\$(?P<tex>[^$]+)\$\$[ ]*\{\#(?P<label>eq-[\w-]+)\}
    |\$\$[^$]+\$\$|\$[^$`]+\$
    |\[[^\]]*\]\([^)]*\)|<[^>\n]+>
    |`(?P<name>[A-Za-z_][\w.]*)`
    |``[^\n]+?``|`[^`]+`
    |(?P<start>(?:\A|(?<=\.\ )|(?<=\n\n)))?@(?P<ref>eq-[\w-]+)
    |\b(?P<word>[Cc]hapter)[ ](?P<chapter>\d\d)\b
    |^(?P<colons>:::+)[ ]*\{\.callout-(?P<kind>\w+)[^}]*\}(?:\n+\#+[ ](?P<title>[^\n]*))?''', re.X | re.M | re.S)

class Site:
    "The pages in the sidebar's order, and what they can refer to: names, chapters and equations."
    def __init__(self, nbs):
        self.nbs = Path(nbs)
        self.contents = yaml.safe_load((self.nbs/'sidebar.yml').read_text())['website']['sidebar']['contents']
        self.pages = {Path(f).stem: nbformat.read(self.nbs/f, as_version=4) for f in files(self.contents)}
        self.chapters = {p[:2]: p for p in self.pages if p[:2].isdigit()}
        self.modules = {p: m for p, nb in self.pages.items() if (m := module(nb))}
        self.names = {n: m.__name__ for m in self.modules.values() for n in m.__all__}
        self.equations = {(p, m['label']): f'{int(p[:2])}.{i}' if p in self.chapters.values() else str(i) for p, nb in self.pages.items() for i, m in enumerate(
            (m for c in nb.cells if c.cell_type == 'markdown' for m in TOKEN.finditer(c.source) if m['label']), 1)}

        cfg = configparser.ConfigParser(delimiters=['='], interpolation=None)
        cfg.read(ROOT/'settings.ini', encoding='utf-8')
        self.git, self.branch = cfg['DEFAULT'].get('git_url', '').rstrip('/'), cfg['DEFAULT']['branch']

    def reference(self):
        "The page of all public names: what they are, in a line, and where they are described; those of `import deq_irnn` first."
        import deq_irnn
        where = {n: m for p, m in self.modules.items() for n in m.__all__ if n[0] != '_'}
        lines = ['# API reference', '', '{.lead}', 'Every public name; its page has the signature, the parameters and the source.', '']
        everything = sorted((n for n in deq_irnn.__all__ if n in where), key=str.lower)
        sections = [('From `deq_irnn`', everything)] + [(f'`{m.__name__}`', [n for n in m.__all__ if n[0] != '_' and n not in deq_irnn.__all__]) for m in self.modules.values()]
        for title, names in sections:
            if not names: continue
            lines += [f'## {title}', '', '```{list-table}', ':class: names', '']
            for n in names:
                obj = getattr(where[n], n)
                call = signature(obj) if callable(obj) else ''
                lines += [f'* - {{py:obj}}`{n} <{where[n].__name__}.{n}>`', f'  - `{n}{call}`' if call else '  -', f'  - {plain(self.prose("api", first_line(obj)))}']
            lines += ['```', '']
        return '\n'.join(lines)

    def equation(self, page, label):
        "The page that defines `label`, this one if it does."
        found = [p for p, l in self.equations if l == label]
        if page not in found and len(found) != 1: raise SystemExit(f'{page}: @{label} is defined by {found or "no page"}')
        return page if page in found else found[0]

    def prose(self, page, text):
        "MyST markdown from a notebook's: numbered equations, references, links to names and chapters, callouts."
        def new(m):
            if m['label']: return f'{m["indent"]}({m["label"]}-{key(page)})=\n{m["indent"]}$${m["tex"].rstrip()} \\tag{{{self.equations[page, m["label"]]}}} $$'
            if m['ref']:
                home = self.equation(page, m['ref'])
                return f'{{ref}}`{"equation" if m["start"] is None else "Equation"} ({self.equations[home, m["ref"]]}) <{m["ref"]}-{key(home)}>`'
            if m['name'] in self.names: return f'{{py:obj}}`{m["name"]} <{self.names[m["name"]]}.{m["name"]}>`'
            if m['chapter'] in self.chapters: return f'{{doc}}`{m["word"]} {m["chapter"]} <{self.chapters[m["chapter"]]}>`'
            if m['kind']: return f'{m["colons"]}{{admonition}} {m["title"] or m["kind"].title()}\n:class: {m["kind"]}\n'
            return m[0]
        return TOKEN.sub(new, text)

    def page(self, page):
        "The notebook of `page` as Sphinx is to show it."
        nb, cells = self.pages[page], []
        for c in nb.cells:
            directives = re.findall(r'^#\|\s*(\w+)(?::?\s*(\w+))?', c.source, re.M) if c.cell_type == 'code' else []
            if any(d in ('hide', 'default_exp') or (d, v) == ('include', 'false') for d, v in directives): continue
            original = c.source
            if c.cell_type == 'markdown': c.source = self.prose(page, c.source)
            else: c.source = re.sub(r'^#\|.*\n?', '', c.source, flags=re.M).strip()
            alt = re.search(r'^#\|\s*fig-alt:\s*"?(.*?)"?$', original, re.M) if c.cell_type == 'code' else None
            c.metadata = dict(alt=alt[1] if alt else '') if c.cell_type == 'code' else {}
            c.metadata.update(tags=['exported']*any(d.startswith('export') for d, _ in directives) + ['remove-input']*(('echo', 'false') in directives))
            if c.source: cells.append(c)
        title, _, rest = cells[0].source.partition('\n')
        number = f'{page[:2]} · ' if page in self.chapters.values() else ''
        cells[0].source = f'# {number}{title.lstrip("# ")}\n' + re.sub(r'^> ', '{.lead}\n', rest.lstrip('\n'), count=1)
        describe_pictures(cells)
        cells.insert(1, new_markdown_cell(page_links(page, self.git, self.branch)))
        if page in self.modules: cells.append(new_markdown_cell(self.api(page)))
        if page == 'index': cells.append(new_markdown_cell('\n'.join(toctrees(self.contents, ['api']*bool(self.modules)))))
        for c in cells: c.metadata.pop('alt', None)
        nb.cells, nb.metadata = cells, dict(language_info=dict(name='python', pygments_lexer='python3'))
        for i, c in enumerate(nb.cells): c.id = f'cell-{i}'
        return nbformat.writes(nb)

    def api(self, page):
        "Signature and docstring of every public name of the page's module."
        mod = self.modules[page]
        return '\n'.join([f'## API: `{mod.__name__}`', *(line for n in mod.__all__ for line in self.entry(page, n, getattr(mod, n)))])

    def entry(self, page, name, obj, kind=None):
        "The lines of one entry, its public methods inside."
        kind = kind or ('class' if inspect.isclass(obj) else 'function' if inspect.isroutine(obj) else 'data')
        inner = [l for n, m in vars(obj).items() if inspect.isfunction(m) and m.__doc__ and n[0] != '_' for l in self.entry(page, n, m, 'method')] if kind == 'class' else []
        doc = '' if kind == 'data' else inspect.cleandoc(own_doc(obj))
        fence, prose = ':::' if kind == 'method' else '::::', self.prose(page, plain(doc))
        shown = kind == 'data' and len(repr(obj)) < 90 and ' at 0x' not in repr(obj)
        return [f'{fence}{{py:{kind}}} {name}{"" if kind == "data" else signature(obj)}',
                *[f':module: {self.modules[page].__name__}']*(kind != 'method'), *[f':value: {obj!r}']*shown,
                '', prose, '', *(parameters(obj) if kind != 'data' else []), *inner, fence, '']

def key(page): return page[:2] if page[:2].isdigit() else page

def files(contents): return [f for item in contents for f in ([item] if isinstance(item, str) else files(item['contents']))]

def module(nb):
    "The module that a notebook exports, imported."
    name = re.search(r'^#\| default_exp (\S+)', '\n'.join(c.source for c in nb.cells), re.M)
    return name and importlib.import_module(f'deq_irnn.{name[1]}')

def first_line(obj):
    "What `obj` is, in the first sentence of its docstring."
    doc = inspect.cleandoc(own_doc(obj) if inspect.isclass(obj) or inspect.isroutine(obj) else '')
    return ' '.join(re.split(r'(?<=[.:])\s|\n\n', doc, maxsplit=1)[0].split())

def page_links(page, git, branch):
    "Where to have the page as a notebook; and, where the repository is known, where to edit and run it."
    links = [f'<a href="notebooks/{page}.ipynb" download>Download this page as a notebook</a>']
    if git:
        links.append(f'<a href="{git}/edit/{branch}/nbs/{page}.ipynb">Edit</a>')
        if 'github.com/' in git: links.append(f'<a href="https://colab.research.google.com/github/{git.split("github.com/")[1]}/blob/{branch}/nbs/{page}.ipynb">Open in Colab</a>')
    return f'<p class="page-links">{" · ".join(links)}</p>'

def describe_pictures(cells):
    "An alt text for each picture: `#| fig-alt: …` of its cell, or the sentence that follows it."
    for i, cell in enumerate(cells):
        if cell.cell_type != 'code' or not any('image/png' in o.get('data', {}) for o in cell.outputs): continue
        after = next((c.source for c in cells[i+1:] if c.cell_type == 'markdown'), '')
        before = next((c.source for c in reversed(cells[:i]) if c.cell_type == 'markdown'), '')
        said = cell.metadata.pop('alt', '') or ' '.join(filter(None, (labels(cell.source), first_sentence(after) or first_sentence(before))))
        cell.metadata['mystnb'] = {'image': {'alt': f'Plot. {said}'.strip()}}

def labels(code):
    "The titles and labels of the axes that `code` writes."
    found = re.findall(r"""(?:title|xlabel|ylabel)(?:=|\()\s*f?['"]([^'"{]{3,})['"]""", code)
    return '; '.join(dict.fromkeys(plain_words(f) for f in found)) + '.' if found else ''

def plain_words(text): return ' '.join(re.sub(r'[*`$\\{}_"<>]', ' ', text.replace(r'\n', ' ')).split())

def first_sentence(text):
    "The first sentence of a markdown text, without its marks; at most 200 characters."
    text = re.sub(r'^(#+ .*|```.*?```|:::.*|\|.*)$', '', text, flags=re.M | re.S if '```' in text else re.M)
    text = re.sub(r'\{\w[\w:]*\}`([^`<]*)(?:<[^`]*>)?`', r'\1', text)
    text = re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', re.sub(r'[*`$\\{}_"<>]', ' ', text))
    text = ' '.join(text.split())
    return re.split(r'(?<=\.) ', text, maxsplit=1)[0].rstrip(':;')[:200]

def toctrees(contents, more=()):
    "The sidebar as hidden toctrees: one for the pages on their own, one with a caption for each section."
    alone, sections = [c for c in contents if isinstance(c, str) and c != 'index.ipynb'] + list(more), [c for c in contents if not isinstance(c, str)]
    for caption, pages in [('', alone)]*bool(alone) + [(s['section'], files(s['contents'])) for s in sections]:
        yield '\n'.join(['```{toctree}', ':hidden:', *[f':caption: {caption}']*bool(caption), '', *(Path(p).stem for p in pages), '```', ''])

def own_doc(obj):
    "The docstring, unless it is inherited or one that dataclass wrote."
    doc = vars(obj).get('__doc__') if inspect.isclass(obj) else obj.__doc__
    return '' if not doc or doc.startswith(f'{obj.__name__}(') else doc

def plain(text):
    "Markdown in which `*` and `_` mean themselves, but in code."
    return re.sub(r'(`[^`]*`)|([*_])', lambda m: m[1] or '\\' + m[2], text)

def written(annotation):
    "A type as the source has it."
    if annotation is inspect.Parameter.empty: return ''
    if isinstance(annotation, type) and not hasattr(annotation, '__args__'): return annotation.__name__
    return re.sub(r'\b(?:typing|torch|collections\.abc|deq_irnn\.\w+)\.', '', str(annotation))

def parameters(obj):
    "The docments of `obj` as a table of parameters, with a row for what is returned; nothing where no parameter is commented."
    try: found = docments(obj, full=True, returns=True)
    except (TypeError, ValueError, OSError): return []
    if not any(p.docment for p in found.values()): return []
    rows = [('parameter', 'type', 'default', 'meaning')]
    for name, p in found.items():
        if name == 'self' or (name == 'return' and not p.docment): continue
        empty = p.default is inspect.Parameter.empty or name == 'return'
        cells = (f'*{name}s*' if name == 'return' else f'`{name}`', f'`{written(p.anno)}`' if written(p.anno) else '',
                 '' if empty else f'`{default(p.default)}`', plain(' '.join((p.docment or '').split())))
        rows.append(cells)
    lines = [f'  - {cell}' if i else f'* - {cell}' for row in rows for i, cell in enumerate(row)]
    return ['```{list-table}', ':header-rows: 1', ':class: parameters', '', *lines, '```', '']

class Shown(str):
    "A default as the source would have it."
    def __repr__(self): return str(self)

def signature(obj):
    "The arguments as written: `solver=Anderson()`, `nonlinearity=tanh`, no self."
    def shown(v): return v if v is inspect.Parameter.empty else Shown(default(v))
    try: sig = inspect.signature(obj)
    except ValueError: return '()'
    names = [p.replace(default=shown(p.default), annotation=inspect.Parameter.empty)
             for p in sig.parameters.values() if p.name != 'self']
    return str(sig.replace(parameters=names, return_annotation=inspect.Signature.empty))

def default(value):
    "A default value, short."
    if dataclasses.is_dataclass(value) and not isinstance(value, type): return f'{type(value).__name__}()'
    return getattr(value, '__name__', repr(value))

def build(out, work, nbs=ROOT/'nbs'):
    "The site in folder `out`, by Sphinx; `work` keeps what a second build need not do again. Any warning is an error: returns Sphinx's exit status."
    from sphinx.cmd.build import main
    site, pages = Site(nbs), Path(work)/'pages'
    pages.mkdir(parents=True, exist_ok=True)
    for old in pages.glob('*.ipynb'):
        if old.stem not in site.pages: old.unlink()
    for page in site.pages:
        file, text = pages/f'{page}.ipynb', site.page(page)
        if not file.exists() or file.read_text() != text: file.write_text(text)
    reference = pages/'api.md'
    if site.modules and (not reference.exists() or reference.read_text() != site.reference()): reference.write_text(site.reference())
    extra = Path(work)/'extra'                                  # copied to the site as it is
    (extra/'notebooks').mkdir(parents=True, exist_ok=True)
    for page in site.pages: shutil.copy(site.nbs/f'{page}.ipynb', extra/'notebooks')
    if (site.nbs/'images').exists(): shutil.copytree(site.nbs/'images', pages/'images', dirs_exist_ok=True)
    return main(['-qW', '-b', 'html', '-c', str(ROOT/'docs'), '-d', f'{work}/doctrees', '-D', f'html_extra_path={extra.resolve()}', str(pages), str(out)])

if __name__ == '__main__':
    folder = sys.argv[1:]
    if shutil.which('quarto') and not folder: sys.exit(subprocess.run([Path(sys.executable).parent/'nbdev_docs'], cwd=ROOT).returncode)
    sys.exit(build(folder[0], f'{folder[0]}.work') if folder else build(ROOT/'_docs', ROOT/'_proc'))
