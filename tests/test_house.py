"The house as DESIGN has it: who imports whom, nothing private across modules, whole classes, lines that fit a page."
import ast, importlib, json, re
from graphlib import TopologicalSorter
from pathlib import Path
import pytest, torch

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT/'nbs').glob('[0-9]*.ipynb'))
WIDTH = 110
SHARED = {'fixed_point', 'activations'}      # what an engine room may import wherever it stands

def cells(notebook):
    "The sources of a notebook's code cells."
    return [''.join(c['source']) for c in json.loads(notebook.read_text())['cells'] if c['cell_type'] == 'code']

def module(notebook):
    "The name of the module that a notebook exports, or None."
    found = re.search(r'^#\| default_exp (\w+)', '\n'.join(cells(notebook)), re.M)
    return found and found[1]

MODULES = {m: (int(n.name[:2]), ast.parse((ROOT/f'deq_irnn/{m}.py').read_text())) for n in NOTEBOOKS if (m := module(n))}
ROOMS = {m for m, (number, _) in MODULES.items() if 30 <= number < 90}

def imports(tree):
    "module → names that a module takes from it, of this package; also within functions."
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and (node.level == 1 or node.module.startswith('deq_irnn.')):
            found.setdefault(node.module.removeprefix('deq_irnn.'), set()).update(a.name for a in node.names)
    return found

IMPORTS = {m: imports(tree) for m, (_, tree) in MODULES.items()}

def test_no_circle():
    list(TopologicalSorter({m: set(found) for m, found in IMPORTS.items()}).static_order())

def through_rooms(name):
    "All modules that `name` needs, its rooms opened."
    needed, todo = set(), [name]
    while todo:
        for other in IMPORTS.get(todo.pop(), {}):
            if other not in needed:
                needed.add(other)
                if other in ROOMS: todo.append(other)
    return needed

@pytest.mark.parametrize('name', MODULES)
def test_imports_only_what_stands_before(name):
    number = MODULES[name][0]
    if name in ROOMS: pytest.skip('an engine room: seen from the chapters that import it')
    late = {m for m in through_rooms(name) - ROOMS - SHARED if m in MODULES and MODULES[m][0] >= number}
    assert not late, f'chapter {number} ({name}) needs {late}, which come later'

@pytest.mark.parametrize('name', MODULES)
def test_nothing_private_crosses_a_wall(name):
    private = {f'{m}.{n}' for m, names in IMPORTS[name].items() for n in names if n.startswith('_') and not n.startswith('__')}
    assert not private

@pytest.mark.parametrize('name', MODULES)
def test_classes_are_whole(name):
    "No method is patched on, and none is assigned after the class."
    _, tree = MODULES[name]
    classes = {n.name for n in tree.body if isinstance(n, ast.ClassDef)}
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            assert not [d for d in node.decorator_list if 'patch' in ast.unparse(d)], f'{node.name} is patched on'
        if isinstance(node, ast.Assign):
            for t in node.targets:
                late = isinstance(t, ast.Attribute) and isinstance(t.value, ast.Name) and t.value.id in classes
                assert not late, ast.unparse(node)

@pytest.mark.parametrize('name', MODULES)
def test_no_private_base_with_one_child(name):
    _, tree = MODULES[name]
    bases = [ast.unparse(b) for n in tree.body if isinstance(n, ast.ClassDef) for b in n.bases]
    own = {n.name for n in tree.body if isinstance(n, ast.ClassDef) and n.name.startswith('_')}
    assert not [b for b in own if bases.count(b) == 1]

@pytest.mark.parametrize('notebook', [*NOTEBOOKS, ROOT/'nbs/index.ipynb'], ids=lambda p: p.stem)
def test_lines_fit_a_page(notebook):
    wide = [line for cell in cells(notebook) for line in cell.splitlines() if len(line) > WIDTH]
    assert not wide, f'{len(wide)} lines of more than {WIDTH} characters, such as:\n{wide[0]}'

@pytest.mark.parametrize('name', MODULES)
def test_public_functions_say_their_types(name):
    "Every parameter of a public function, class or method has a type; every one has a docstring, its own or a base's."
    _, tree = MODULES[name]
    module, missing = importlib.import_module(f'deq_irnn.{name}'), []
    def look(node, owner=None):
        if node.name.startswith('_') and node.name != '__init__': return
        shown = f'{owner.__name__}.{node.name}' if owner else node.name
        if isinstance(node, ast.ClassDef):
            if not ast.get_docstring(node): missing.append(f'{shown}: no docstring')
            cls = getattr(module, node.name)
            if issubclass(cls, torch.autograd.Function): return      # torch calls its methods, nobody else
            for n in node.body:
                if isinstance(n, ast.FunctionDef): look(n, cls)
            return
        decorators = ' '.join(map(ast.unparse, node.decorator_list))
        if 'overload' in decorators or '.setter' in decorators: return
        inherited = owner and any(node.name in vars(base) for base in owner.__mro__[1:])
        if not (ast.get_docstring(node) or inherited or node.name == '__init__'): missing.append(f'{shown}: no docstring')
        for arg in node.args.posonlyargs + node.args.args + node.args.kwonlyargs:
            if arg.annotation is None and arg.arg not in ('self', 'cls'): missing.append(f'{shown}({arg.arg}): no type')
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)): look(node)
    assert not missing, missing
