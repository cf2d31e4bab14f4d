"""Break the library on purpose, one small change at a time, and see who notices.

    python tests/mutants.py wellposed                     # every mutant of every function of the module
    python tests/mutants.py wellposed --sample 40         # so many, drawn at random (--seed)
    python tests/mutants.py wellposed --only contractive  # those of one function or class
    python tests/mutants.py wellposed --no-pytest         # the notebook's own tests alone
    python tests/mutants.py deq -k 'not ddp'              # of those under tests/, the ones that pytest -k selects
    python tests/mutants.py scan --patience 10            # no notebook runs for longer after the change
    python tests/mutants.py scan --again --json FILE      # those that nobody noticed according to the file

A mutant is a function of the library with one sign flipped, one term dropped, one number off by one, one comparison
or condition turned round. First it is put into the notebook that exports it, in place of the right one, and the notebook
is run until a cell raises: every mutant begins at its own cell, in a fork of the process that has run what comes before.
Those that survive are put into a copy of the package, and the chapter's file under tests/ is run. A mutant that nobody
notices is a hole in the tests, or it computes the same by another way: a person has to look, and may write a `why` beside
it. Nothing here is collected by pytest; it takes a few seconds per mutant. `--json FILE` keeps the outcome."""
import argparse, ast, contextlib, copy, json, os, random, re, shutil, signal, sys, tempfile, types
from collections import Counter
from pathlib import Path
import pytest, torch

ROOT = Path(__file__).resolve().parents[1]

# whose tests look after an engine room
TESTS = {'implicit': ['implicit', 'hostile'], 'loop': ['solvers', 'hostile'], 'derivatives': ['implicit'],
         'deq_extras': ['deq'], 'euler_adjoint': ['irnn'], 'sequence_newton': ['equilibrium_rnn'],
         'tokens': ['solvers_tokens', 'root_irnn'], 'time_parallel': ['root_irnn']}

# ---- the changes

SWAPS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
         ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
         ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And}
TURNED = {ast.Lt: ast.Gt, ast.LtE: ast.GtE, ast.Gt: ast.Lt, ast.GtE: ast.LtE}

def changes(node):
    "What may become of `node`: pairs (what it is called, the new node)."
    def with_(**fields):
        new = copy.copy(node)
        for name, value in fields.items(): setattr(new, name, value)
        return new
    if isinstance(node, ast.BinOp) and type(node.op) in SWAPS:
        yield 'operator', with_(op=SWAPS[type(node.op)]())
        if isinstance(node.op, (ast.Add, ast.Sub)):
            yield 'right term dropped', node.left
            yield 'left term dropped', node.right
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult): yield 'factor dropped', node.left
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)): yield 'sign', node.operand
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        for table in (SWAPS, TURNED):
            if type(node.ops[0]) in table: yield 'comparison', with_(ops=[table[type(node.ops[0])]()])
    if isinstance(node, ast.BoolOp): yield 'and, or', with_(op=SWAPS[type(node.op)]())
    if isinstance(node, (ast.If, ast.IfExp)): yield 'condition', with_(test=ast.UnaryOp(ast.Not(), node.test))
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield 'off by one' if type(node.value) is int else 'number', with_(value=node.value + 1)
    if isinstance(node, ast.Constant) and type(node.value) is bool: yield 'truth', with_(value=not node.value)

def unseen(node):
    "Children in which nothing is changed: annotations, decorators, messages of errors, defaults."
    if isinstance(node, ast.arguments): return {id(n) for n in ast.iter_child_nodes(node)}
    if isinstance(node, ast.ClassDef): return {id(n) for n in ast.iter_child_nodes(node) if not isinstance(n, ast.FunctionDef)}
    hidden = [getattr(node, 'annotation', None), getattr(node, 'returns', None), *getattr(node, 'decorator_list', [])]
    if isinstance(node, (ast.Raise, ast.JoinedStr)): hidden += ast.iter_child_nodes(node)
    return {id(n) for n in hidden if n is not None}

def mutants(function):
    "All copies of the function or class `function` with one change: (line, what, the new node)."
    def look(node, path):
        if path:
            for what, new in changes(node): yield getattr(node, 'lineno', function.lineno), what, rebuilt(function, path, new)
        hidden = unseen(node)
        for field, value in ast.iter_fields(node):
            for i, child in enumerate(value if isinstance(value, list) else [value]):
                if not isinstance(child, ast.AST) or id(child) in hidden: continue
                yield from look(child, [*path, (field, i if isinstance(value, list) else None)])
    yield from look(function, [])

def rebuilt(tree, path, new):
    "`tree` with `new` at the end of `path`; what is on the way is copied, the rest shared."
    if not path: return new
    (field, i), *rest = path
    top, value = copy.copy(tree), getattr(tree, field)
    if i is None: setattr(top, field, rebuilt(value, rest, new))
    else: setattr(top, field, [rebuilt(v, rest, new) if j == i else v for j, v in enumerate(value)])
    return top

# ---- where they go

class Module:
    "A module of the library: its notebook's cells, its functions and classes."
    def __init__(self, name):
        self.name = name
        for path in sorted((ROOT/'nbs').glob('[0-9]*.ipynb')):
            cells = [''.join(c['source']) for c in json.loads(path.read_text())['cells'] if c['cell_type'] == 'code']
            if any(re.search(rf'^#\| default_exp {name}$', c, re.M) for c in cells): break
        else: raise SystemExit(f'no notebook exports {name}')
        self.path, self.cells = path, cells
        self.exported = [i for i, c in enumerate(cells) if re.match(r'#\| export', c)]
        self.source = (ROOT/f'deq_irnn/{name}.py').read_text()
        named = (ROOT/f'tests/test_{n}.py' for n in TESTS.get(name, [name]))
        self.tests = [p for p in named if p.exists()]

    def functions(self, only=None):
        "(cell, function or class) of everything exported."
        for i in self.exported:
            for node in ast.parse(self.cells[i]).body:
                if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and only in (None, node.name): yield i, node

    def in_module(self, old, new):
        "The module's source with `new` in place of the function or class of the same name."
        same = [n for n in ast.parse(self.source).body if type(n) is type(old) and n.name == old.name and ast.dump(n) == ast.dump(old)]
        return replaced(self.source, same[0], new)

def replaced(source, old, new):
    "`source` with the lines of `old`, decorators included, written anew."
    lines = source.splitlines()
    first = min([old.lineno, *(d.lineno for d in old.decorator_list)]) - 1
    return '\n'.join([*lines[:first], ast.unparse(ast.fix_missing_locations(new)), *lines[old.end_lineno:]])

# ---- who notices

def in_child(work, seconds):
    "Run `work()` in a forked process: 'passed', 'noticed' (it raised), or 'too long' (seconds of computing)."
    child = os.fork()
    if child == 0:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.alarm(int(60 + 30*seconds))                  # (for one that waits and computes nothing)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1); os.dup2(null, 2)
        try: work()
        except BaseException: os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status): return 'too long' if os.WTERMSIG(status) in (signal.SIGPROF, signal.SIGALRM) else 'noticed'
    return 'noticed' if os.WEXITSTATUS(status) else 'passed'

class Notebook:
    "A notebook's code cells, run one after the other, without a kernel and silently."
    def __init__(self, cells, folder):
        self.cells, self.at = cells, 0
        os.chdir(folder)
        self.main = sys.modules['__main__'] = types.ModuleType('__main__')     # (pickle looks its classes up there)

    def run(self, cell):
        with open(os.devnull, 'w') as null, contextlib.redirect_stdout(null), contextlib.redirect_stderr(null):
            exec(compile(cell, 'cell', 'exec'), self.main.__dict__)

    def up_to(self, i):
        "Run the cells before the i-th."
        for cell in self.cells[self.at:i]: self.run(cell)
        self.at = max(i, self.at)

    def rest(self, cell):
        "Run `cell` in place of the next one, and all after it."
        for c in (cell, *self.cells[self.at + 1:]): self.run(c)

def run_pytest(package, tests, chosen, seconds):
    "The files `tests`, those that `-k chosen` selects, with the library in the folder `package`."
    def work():
        os.chdir(package)
        os.environ.pop('IN_TEST', None)
        os.environ['PYTHONPATH'] = str(package)
        sys.path.insert(0, str(package))
        torch.set_default_dtype(torch.float32)              # (a notebook may have another)
        for name in [n for n in sys.modules if n.split('.')[0] == 'deq_irnn']: del sys.modules[name]
        if pytest.main(['-x', '-q', '-p', 'no:cacheprovider', '-k', chosen, *map(str, tests)]): raise AssertionError
    return in_child(work, seconds)

def timed(work):
    "What `work()` returns, and the seconds that it and its children computed."
    def computed():
        t = os.times()
        return t.user + t.system + t.children_user + t.children_system
    start = computed()
    return work(), computed() - start

WHAT = 'mutants of exported functions: how many a notebook or the tests noticed (tests null: not run), and which nobody did'

def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('module')
    parser.add_argument('--sample', type=int)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--only')
    parser.add_argument('--no-pytest', action='store_true')
    parser.add_argument('-k', default='')
    parser.add_argument('--patience', type=float, default=900., help='seconds of computing after which a notebook is left to the tests')
    parser.add_argument('--trust', action='store_true', help='the notebook and the tests pass as they are: do not look first')
    parser.add_argument('--again', action='store_true', help='only those that nobody noticed according to the file of --json')
    parser.add_argument('--json', type=lambda p: Path(p).resolve())
    args = parser.parse_args()
    os.environ['MPLBACKEND'] = 'agg'
    import IPython.display, matplotlib.pyplot, scipy.optimize, sklearn.datasets    # noqa: loaded once, for every fork
    torch.set_num_threads(1)                               # (threads do not survive a fork)
    module = Module(args.module)
    found = [(cell, old, *m) for cell, old in module.functions(args.only) for m in mutants(old)]
    total = len(found)
    kept = json.loads(args.json.read_text()) if args.json and args.json.exists() else dict(what=WHAT, modules=[], survivors=[])
    mine = [s for s in kept['survivors'] if s['module'] == args.module]
    if args.again:
        known = [identity(s) for s in mine]
        found = [m for m in found if identity(described(module, *m)) in known]
    if args.sample and args.sample < len(found): found = random.Random(args.seed).sample(found, args.sample)
    found.sort(key=lambda mutant: mutant[0])
    notebook = Notebook(module.cells, module.path.parent)
    right, seconds = 'passed', args.patience
    if not args.trust: right, seconds = timed(lambda: in_child(lambda: notebook.up_to(len(module.cells)), args.patience))
    if right == 'noticed': raise SystemExit(f'{module.path.name} fails as it is')
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder)
        shutil.copytree(ROOT/'deq_irnn', package/'deq_irnn')
        longer = 0.
        if not args.no_pytest and module.tests:
            right, longer = 'passed', 600.
            if not args.trust: right, longer = timed(lambda: run_pytest(package, module.tests, args.k, 1800))
            if right != 'passed': raise SystemExit(f'{module.tests} fail as they are')
        took = 'trusted' if args.trust else f'takes {seconds:.0f} s, the tests {longer:.0f} s'
        print(f'{len(found)} of {total} mutants of {args.module}; as it is, the notebook {took}', flush=True)
        counts, survivors = Counter(), []
        for cell, old, line, what, new in found:
            notebook.up_to(cell)
            mutant = replaced(module.cells[cell], old, new)
            outcome, by = in_child(lambda: notebook.rest(mutant), min(args.patience, 3*seconds + 20)), 'notebook'
            left = outcome == 'passed' or seconds >= args.patience and outcome == 'too long'
            if left and longer:
                (package/f'deq_irnn/{module.name}.py').write_text(module.in_module(old, new))
                outcome, by = run_pytest(package, module.tests, args.k, 3*longer + 20), 'tests'
                (package/f'deq_irnn/{module.name}.py').write_text(module.source)
                left = outcome == 'passed'
            if left: by = 'nobody'
            counts[by] += 1
            if by == 'nobody':
                survivors.append(described(module, cell, old, line, what, new))
                print('survives:', *survivors[-1].values(), sep='\n    ', flush=True)
    noticed = len(found) - counts['nobody']
    print(f'{noticed} of {len(found)} noticed: {counts["notebook"]} by the notebook, {counts["tests"]} more by the tests')
    if not args.json: return
    row = dict(module=args.module, mutants=total, tried=len(found), seed=args.seed, patience=args.patience,
               notebook=counts['notebook'], tests=counts['tests'] if longer else None)
    if args.again:
        row = next(r for r in kept['modules'] if r['module'] == args.module)
        row['notebook'] += counts['notebook']
        row['tests'] = (row['tests'] or 0) + counts['tests']
    why = {identity(s): s['why'] for s in mine if 'why' in s}
    for s in survivors:
        if identity(s) in why: s['why'] = why[identity(s)]
    kept['modules'] = [r for r in kept['modules'] if r['module'] != args.module] + [row]
    kept['survivors'] = [s for s in kept['survivors'] if s['module'] != args.module] + survivors
    args.json.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + '\n')

def described(module, cell, old, line, what, new):
    "A mutant in words: whose it is, the line, and what became of it."
    return dict(module=module.name, name=old.name, what=what, line=module.cells[cell].splitlines()[line - 1].strip(),
                now=difference(old, new))

def identity(survivor): return survivor['name'], survivor['what'], survivor['line'], survivor.get('now')

def difference(old, new):
    "What the line that differs is now."
    a, b = (ast.unparse(ast.fix_missing_locations(n)).splitlines() for n in (old, new))
    return next((y.strip() for x, y in zip(a, b) if x != y), '(a line less)')

if __name__ == '__main__': main()
