"A user's script: every public class, as one would write it. pyright checks it (test_types.py), and it runs."
import torch
from torch import Tensor, nn, randn, zeros
from torch.nn.utils.parametrize import register_parametrization
from deq_irnn import (DEQ, IRNN, MLP, Activation, Anderson, AttractorCell, Attractors, Basins, Broyden, CharLM,
    Contractive, ContractiveRecurrence, ContractiveTransformer, ConvergenceError,
    ConvergenceWarning, DEQTransformer, DiagonalGRUCell, DiagonalLSTMCell, Equilibrium,
    EquilibriumBlock, EquilibriumGRUCell, EquilibriumRNN, Explicit, GradientRule, Implicit,
    IncrementalCell, IncrementalResNet, IncrementalTransformer, InjectedAttention, Injection,
    InputGate, InputRotation, IRNNCell, IsometricCell, IsometricRNN, Lookup, Modes, MonotoneConv,
    MonotoneLayer, MonotoneRecurrence, Neumann, Newton, NewtonKrylov, Orthogonal, Packing,
    ParityChecks, Phantom, Picard, Point, Recurrence, RecurrentBase, Rest, Reversible, RootBlock,
    RootIRNN, Rotation, Shared, Sign, Solution, Solve, Solver, SolvingModule, StateGate, Status,
    Stepwise, Tanh, TanhCell, Tiles, Transformer, Transition, Unrolled, VariationalDropout,
    WeightDropout, equilibrium, fixed_point, frozen, modes, root, solve)


class Layer(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.linear = register_parametrization(nn.Linear(width, width), 'weight', Contractive(.9))
        self.dropout = VariationalDropout(.1)

    def forward(self, z: Tensor, x: Tensor) -> Tensor: return (self.dropout(self.linear(z)) + x).tanh()


x = randn(5, 8)
solvers: list[Solver] = [Picard(), Anderson(), Broyden(), Newton(), NewtonKrylov()]
for solver in solvers:
    found: Solution = solve(lambda z: (z/2 + x).cos(), zeros(5, 8), solver)
    assert bool(found.converged.all()) and Status(int(found.status[0])) is Status.CONVERGED
print(root(lambda z: z**3 - x, zeros(5, 8) + 1, Newton(), tol=1e-5).residual.max())

rules: list[GradientRule] = [Implicit(), Neumann(), Phantom(), Reversible()]
for rule in rules:
    layer = DEQ(Layer(8), solver=Anderson(memory=3), gradient=rule, tol=1e-4)
    layer(x).sum().backward()
    print(layer.solution.residual.max(), layer.how.tol)
z = fixed_point(lambda z: (z/2 + x).cos(), zeros(5, 8), solver=Picard(), gradient=Unrolled())
z, solution = equilibrium(lambda z: (z/2 + x).cos(), zeros(5, 8), Solve(tol=1e-6))
try: solve(lambda z: 3*z + 1, zeros(5, 8), Picard(), on_failure='raise')
except ConvergenceError as e: print(e.solution.status, ConvergenceWarning.__doc__)
point, shared = Point(x, x, x - x), Shared(randn(3))
print(Packing((x, x)).flat((x, x)).shape, MonotoneLayer(8, 8)(x).shape, point.r.norm(), shared.value)
print(MonotoneConv(3, (6, 6))(randn(2, 3, 6, 6)).shape, WeightDropout(.1).p, issubclass(DEQ, SolvingModule))

series = randn(12, 5, 8)                             # (T, B, features)
nets: list[RecurrentBase] = [
    IRNN(8, 16, 2, 'tanh', steps=3), IRNN(8, 16, nonlinearity=Activation(Tensor.tanh)),
    RootIRNN(8, 16, transition='input_rotation', solver=Tiles(first=5)), RootIRNN(8, 16, solver=Broyden()),
    IsometricRNN(8, 16, injection='mlp', transition=Orthogonal, gate='state', learn_h0=True)]
for rnn in nets:
    output, h_n = rnn(series)
    output, state = rnn.step(series[0], h_n)
    print(output.shape, state.shape)
transitions: list[Transition] = [Sign(8, 16), Rotation(8, 16), InputRotation(8, 16), Orthogonal(8, 16, block=4)]
injections: list[Injection] = [Tanh(8, 16), MLP(8, 16), Equilibrium(8, 16, recurrence='monotone')]
gates: list[nn.Module] = [InputGate(8, 16), StateGate(8, 16), StateGate(8, 16, length=1000)]
for transition, injection, gate in zip(transitions, injections, gates):
    print(IsometricCell(injection, gate, transition)(series, zeros(5, 16)).shape)
recurrences: list[Recurrence] = [ContractiveRecurrence(16), MonotoneRecurrence(16, heads=2)]
print([recurrence().shape for recurrence in recurrences], IRNNCell(8, 16)(series, zeros(5, 16)).shape)
print(RootBlock(8)(series)[0].shape)

memories = randn(6, 16)
radius: Basins = Attractors(memories).basins()
kinds: list[Rest] = [Attractors(memories, every=4), Lookup(memories),
    ParityChecks(zeros(1, 3).long() + torch.arange(3), 16, every=2)]
for rest in kinds: print(IsometricRNN(8, 16, rest=rest)(series)[0].shape, radius.outer.shape)
found_modes: Modes = modes(memories)
print(found_modes.which)
for cell in (TanhCell(8, 16), EquilibriumGRUCell(8, 16), IncrementalCell(8, 16), DiagonalGRUCell(8, 16),
             DiagonalLSTMCell(8, 16), Explicit(nn.GRUCell(8, 16)), AttractorCell(Attractors(memories), Rotation(8, 16))):
    rnn = EquilibriumRNN(cell, mode='parallel')
    print(type(cell).__name__, rnn(series)[0][0].shape, rnn.solution)

tokens = randn(2, 6, 8)                              # (B, T, features)
print(IncrementalResNet(8, 4)(x).shape, EquilibriumBlock(8, 2)(tokens, tokens).shape)
for body in (DEQTransformer(8, 2, tol=1e-2), ContractiveTransformer(8, 2, tol=1e-2),
             IncrementalTransformer(8, 2, heads=2, tol=1e-2), Transformer(8, 2, 2)):
    print(CharLM(20, 8, body)(zeros(2, 6).long()).shape, InjectedAttention(8, 2)(tokens, tokens).shape)
net, report = frozen(RootIRNN(3, 8), randn(20, 2, 3))
out, state = Stepwise(net)(randn(2, 3), zeros(1, 2, 8))
print(report.solves[0].iterations, out.shape)
