"What a user adds in a file of their own, one class or function each: test_outside.py uses it all."
from typing import NamedTuple

import torch
from torch import Tensor, nn
from deq_irnn import Shared, Transition, Recurrence, fixed_point
from deq_irnn.tasks import InventedTask, Split


class RelaxedState(NamedTuple):
    steps: Shared       # step sizes, taken in turn: the same for all samples
    last: Tensor        # (B, N) the move before
    count: int


class Relaxed:
    "A solver: steps of changing length with a little momentum."
    def init(self, at): return RelaxedState(Shared(torch.tensor([1., .7, .9])), torch.zeros_like(at.r), 0)

    def step(self, g, at, state):
        size = state.steps.value[state.count % 3].to(at.r.dtype)
        move = size*at.r + .05*state.last
        return at.z + move, RelaxedState(state.steps, move, state.count + 1)


class TwoSteps:
    "A gradient rule: two recorded applications of f from the equilibrium."
    def attach(self, problem):
        solution = problem.solve()
        z = solution.z.clone()
        if torch.is_grad_enabled(): z = problem.f(problem.f(z))
        return z, solution


class Roll(Transition):
    "A transition: every unit hands its number to the next."
    def forward(self, x, b, h0):
        states, h = [], h0
        for t in range(len(x)):
            h = h.roll(1, -1) if b is None else h.roll(1, -1) + b[t]
            states.append(h)
        return torch.stack(states)


class Halved(Recurrence):
    "A recurrence: U = ½ tanh(w) I, block by block, so that ‖U‖₂ ≤ ½."
    norm_bound = .5

    def __init__(self, hidden_size, heads=1):
        super().__init__(hidden_size, heads)
        self.w = nn.Parameter(torch.zeros(heads, 1, 1))

    def forward(self):
        d = self.hidden_size//self.heads
        return .5*torch.tanh(self.w)*torch.eye(d, dtype=self.w.dtype)


class Square(nn.Module):
    "An injection: (W x)² − 1."
    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.W = nn.Linear(input_size, hidden_size)

    def forward(self, x): return self.W(x)**2 - 1


class LeakyCell(nn.Module):
    "A cell h_t = ½ tanh(U h_t) + ½ h_{t−1} + W x_t, ‖U‖ small."
    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.U = nn.Parameter(.1*torch.randn(hidden_size, hidden_size)/hidden_size**.5)
        self.W = nn.Linear(input_size, hidden_size)

    def initial_state(self, batch, like): return like.new_zeros(batch, len(self.U))

    def forward(self, x, h, before): return .5*torch.tanh(h @ self.U.T) + .5*before + self.W(x)


class CountOnes(InventedTask):
    "A task: how many of the numbers are positive?"
    name = 'count'
    input_size = 1

    def __init__(self, length=6, train_size=64, test_size=32):
        super().__init__(train_size, test_size)
        self.length, self.output_size = length, length + 1
        self.chance = 1/self.output_size

    def draw(self, n, generator):
        x = torch.randn(n, self.length, 1, generator=generator)
        return Split(x, (x > 0).sum((1, 2)))


class Mean(nn.Module):
    "A study's model: a running mean of a linear map of the input."
    def __init__(self, input_size, hidden_size):
        super().__init__()
        self.hidden_size, self.W = hidden_size, nn.Linear(input_size, hidden_size)

    def forward(self, x, h_0=None):
        first = torch.zeros_like(x[0, :, :1]).expand(-1, self.hidden_size)[None] if h_0 is None else h_0
        h = first + torch.tanh(self.W(x)).cumsum(0)
        return h, h[-1:]


def net(input_size, hidden_size, length):
    "The model as a study makes it: `--models outside:net`."
    return Mean(input_size, hidden_size)
