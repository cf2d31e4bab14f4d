"""One step of a stream, batch 1 and 64: frozen recurrent networks beside nn.LSTM and nn.GRU, in Python, as a traced graph, and in ONNX Runtime.

Microseconds of the process's own time (one thread), so that other work on the machine counts less; the ratios are of the same round. ONNX needs onnx, onnxscript, onnxruntime."""
import importlib.util, tempfile, time, warnings
from pathlib import Path

import torch
from torch import nn
from common import Options, interleaved, machine, ratios, spread, summary, table, write
from deq_irnn import IRNN, IsometricRNN, RootIRNN, Stepwise, frozen

N, D, STEPS = 16, 128, 300
ONNX = all(importlib.util.find_spec(m) for m in ('onnx', 'onnxscript', 'onnxruntime'))


class Step(nn.Module):
    "One step of nn.LSTM or nn.GRU, with its state."
    def __init__(self, rnn):
        super().__init__()
        self.rnn = rnn

    def forward(self, x, *state):
        out, new = self.rnn(x[None], state if len(state) > 1 else state[0])
        return (out[0], *new) if isinstance(new, tuple) else (out[0], new)


def networks(tol):
    "name → (a module of one step, how many tensors its state has, how many evaluations a solve)."
    torch.manual_seed(0)
    examples = torch.randn(100, 64, N)
    made = {'nn.LSTM': (Step(nn.LSTM(N, D)), 2, 0), 'nn.GRU': (Step(nn.GRU(N, D)), 1, 0)}
    for name, rnn in {'IRNN, K = 5': IRNN(N, D), 'IsometricRNN': IsometricRNN(N, D), 'RootIRNN': RootIRNN(N, D, tol=tol)}.items():
        net, report = frozen(rnn, examples)
        made[name] = Stepwise(net), 1, report.solves[0].iterations if report.solves else 0
    made['RootIRNN, not frozen'] = Stepwise(RootIRNN(N, D, tol=tol)), 1, 0
    return {name: (step.eval().requires_grad_(False), n, k) for name, (step, n, k) in made.items()}


def in_onnx(step, inputs, folder):
    "A function of the inputs that runs `step` in ONNX Runtime, on one thread; and the size of its file."
    import onnxruntime
    file = Path(folder, 'step.onnx')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.onnx.export(step, inputs, file, dynamo=True, verbose=False, external_data=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options)
    names = [i.name for i in session.get_inputs()]
    feed = {n: v.numpy() for n, v in zip(names, inputs)}
    got = session.run(None, feed)
    for a, b in zip(got, step(*inputs)): torch.testing.assert_close(torch.from_numpy(a), b, atol=1e-5, rtol=1e-5)
    return lambda: session.run(None, feed), file.stat().st_size


def per_step(run):
    "Microseconds of this process in one call, the mean of many."
    def measure():
        start = time.process_time()
        for _ in range(STEPS): run()
        return (time.process_time() - start)/STEPS*1e6
    return measure


def contestants(batch, tol, onnx, folder):
    "(name, way) → a function to run; and the facts of each network."
    runs, facts = {}, {}
    for name, (step, n, iterations) in networks(tol).items():
        inputs = (torch.randn(batch, N), *(torch.zeros(1, batch, D) for _ in range(n)))
        weights = sum(p.numel()*p.element_size() for p in (*step.parameters(), *step.buffers()))
        facts[name] = dict(evaluations=iterations, weights=weights, state=n*D*4*batch)
        runs[name, 'eager'] = lambda step=step, inputs=inputs: step(*inputs)
        if 'not frozen' in name: continue
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            traced = torch.jit.freeze(torch.jit.trace(step, inputs, check_trace=False))
        runs[name, 'traced'] = lambda traced=traced, inputs=inputs: traced(*inputs)
        if onnx: runs[name, 'onnx'], facts[name]['onnx_bytes'] = in_onnx(step, inputs, folder)
    return runs, facts


def main():
    options = Options(__doc__, 'deploy')
    options.add_argument('--tol', type=float, default=1e-3, help='of the solves (default 1e-3, the study\'s)')
    options = options.parse_args()
    torch.set_num_threads(options.threads[0])
    rows = []
    for batch in (1,) if options.quick else (1, 64):
        with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
            runs, facts = contestants(batch, options.tol, ONNX, folder)
            measured = interleaved({key: per_step(run) for key, run in runs.items()}, options.rounds)
        for (name, way), times in measured.items():
            base = measured['nn.LSTM', way]
            rows.append(dict(batch=batch, network=name, way=way, microseconds=summary(times), of_lstm=ratios(times, base), **facts[name]))
    what = 'one step of a stream: microseconds of process time, and their ratio to nn.LSTM run the same way'
    write(options.out, dict(what=what, input_size=N, hidden_size=D, tol=options.tol, onnx=ONNX, **machine(), rows=rows))
    table(('network', 'way', 'batch', 'µs', 'of nn.LSTM', 'evaluations'),
          [(r['network'], r['way'], str(r['batch']), spread(r['microseconds'], 0), spread(r['of_lstm'], 2), str(r['evaluations'])) for r in rows])


if __name__ == '__main__': main()
