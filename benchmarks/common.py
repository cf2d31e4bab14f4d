"What all benchmarks share: turns in one process, a summary, a table, the result file and the options."
import argparse, gc, json, os, pathlib, platform, statistics, time
from typing import Any, Callable, Sequence

import torch

RESULTS = pathlib.Path(__file__).resolve().parents[1]/'results'


def summary(values: Sequence[float]) -> dict:
    "Median, smallest and largest of some measurements, and how many there are."
    return dict(median=statistics.median(values), min=min(values), max=max(values), repeats=len(values))


def ratios(above: Sequence[float], below: Sequence[float]) -> dict:
    "The summary of above/below, round by round: what other processes do to a round, they do to both."
    return summary([a/b for a, b in zip(above, below)])


def seconds(run: Callable[[], Any]) -> float:
    "How long one call takes."
    gc.collect()
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def forward_backward(
    forward: Callable[[], torch.Tensor],           # builds a graph
    backward: Callable[[torch.Tensor], Any] = lambda out: out.square().mean().backward(),
) -> tuple[float, float]:
    "Seconds of the forward pass with a graph, and of forward and backward together."
    gc.collect()
    start = time.perf_counter()
    out = forward()
    middle = time.perf_counter()
    backward(out)
    return middle - start, time.perf_counter() - start


def interleaved(
    contestants: dict[str, Callable[[], Any]],     # name → one measurement, such as lambda: seconds(run)
    rounds: int,                                   # in each of them every contestant has its turn
    slow: dict[str, int] | None = None,            # name → at most so many rounds, and none to warm up
) -> dict[str, list]:
    "What each contestant measured in each round, after one round to warm up."
    slow = slow or {}
    measured = {name: [] for name in contestants}
    for name, measure in contestants.items():
        if name not in slow: measure()
    for i in range(rounds):
        for name, measure in contestants.items():
            if i < slow.get(name, rounds): measured[name].append(measure())
    return measured


def processor() -> str:
    "The processor's name."
    info = pathlib.Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(':')[1].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor()


def machine() -> dict:
    "Versions, processor and threads, for the head of a result file."
    return dict(torch=torch.__version__, python=platform.python_version(), cpu=processor(),
                cores=os.cpu_count(), threads=torch.get_num_threads())


def write(path: str | pathlib.Path | None, content: dict, finished: bool = True):
    """Write `content` as JSON, whole or not at all; nothing where `path` is None.
    What is not finished goes beside it, so that a run cut short keeps what it has, and the last whole one."""
    if path is None: return
    path = pathlib.Path(path)
    unfinished = path.with_suffix('.unfinished.json')
    if finished: unfinished.unlink(missing_ok=True)
    else: path = unfinished
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'{path.name}.{os.getpid()}.part')
    part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + '\n')
    os.replace(part, path)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]):
    "Print rows of texts below their heads, the first column to the left, the others to the right."
    wide = [max(map(len, column)) for column in zip(head, *rows)]
    for row in (head, *rows):
        cells = [c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(row, wide))]
        print('  '.join(cells).rstrip(), flush=True)


def spread(s: dict, digits: int = 3, scale: float = 1.) -> str:
    "A summary as text: median (min–max)."
    median, low, high = (f'{s[k]*scale:.{digits}f}' for k in ('median', 'min', 'max'))
    return f'{median} ({low}–{high})'


class Options(argparse.ArgumentParser):
    "--quick, --rounds, --threads and --out, which all benchmarks have."
    def __init__(self,
                 doc: str,              # the benchmark's docstring: its first line is the description
                 name: str,             # its result file is results/<name>.json
                 rounds: int = 7,       # how many, if not said
                 quick_rounds: int = 3, # how many with --quick
                 ):
        super().__init__(description=doc.split('\n')[0])
        self.file, self.usual, self.few = RESULTS/f'{name}.json', rounds, quick_rounds
        self.add_argument('--quick', action='store_true', help='the smallest sizes; nothing is written unless --out is given')
        self.add_argument('--rounds', type=int, help=f'rounds (default {rounds}; {quick_rounds} with --quick)')
        self.add_argument('--threads', type=int, nargs='+', default=[1], help='numbers of threads (default 1)')
        self.add_argument('--out', help=f'where to write (default results/{name}.json; none with --quick)')

    def parse_args(self, *args, **kwargs):
        "The options, with `rounds` and `out` as they are meant."
        options = super().parse_args(*args, **kwargs)
        options.rounds = options.rounds or (self.few if options.quick else self.usual)
        options.out = options.out or (None if options.quick else self.file)
        return options
