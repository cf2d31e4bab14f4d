__version__ = "0.2.0"

# finding an equilibrium
from .fixed_point import (ConvergenceError, ConvergenceWarning, Packing, Solution, SolvingModule, Status,
    last_solution, relative_residual, report)
from .loop import Point, Shared, Solver
from .solvers import Anderson, Broyden, Newton, NewtonKrylov, Picard, Solve, root, solve
from .implicit import (GradientRule, Implicit, Neumann, Phantom, Reversible, Unrolled, equilibrium,
    fixed_point)
from .wellposed import (Contractive, MonotoneConv, MonotoneLayer, contraction_factor, contractive, conv_norm,
    forward_backward_step, jacobian_penalty, make_contractive, monotone, reflect, ritz_values,
    spectral_abscissa, spectral_radius)
from .deq import DEQ, VariationalDropout, WeightDropout
# time
from .scan import affine_scan, rotation_scan, signed_scan
from .irnn import ACTIVATIONS, IRNN, Activation, IRNNCell, activation, euler_chain
from .recurrent import RecurrentBase
from .isometry import (TRANSITIONS, InputRotation, Orthogonal, Rotation, Sign, Transition, make_transition,
    orthogonal_scan)
from .tokens import Tiles, token_equilibrium
from .time_parallel import time_parallel
from .root_irnn import (GATES, INJECTIONS, MLP, RECURRENCES, ContractiveRecurrence, Equilibrium, Injection,
    InputGate, IsometricCell, IsometricRNN, MonotoneRecurrence, Recurrence, Rest, RootBlock, RootIRNN,
    StateGate, Tanh)
from .memory import (Attractors, Basins, Lookup, Modes, ParityChecks, answer_means, basins, class_means,
    forecast, modes, safe_interval, sharpness, transition_errors)
from .equilibrium_rnn import (AttractorCell, DiagonalGRUCell, DiagonalLSTMCell, EquilibriumGRUCell,
    EquilibriumRNN, Explicit, IncrementalCell, TanhCell, lyapunov)
# depth
from .resnet import IncrementalResNet, composed, depth_jacobian, rest_points
from .transformer import (CharLM, ContractiveTransformer, DEQTransformer, EquilibriumBlock, IncrementalTransformer,
    InjectedAttention, Transformer, attention_bias)
# production
from .deploy import FREEZERS, Stepwise, frozen, measure

__all__ = [
    'ACTIVATIONS', 'Activation', 'Anderson', 'AttractorCell', 'Attractors', 'Basins', 'Broyden', 'CharLM',
    'Contractive', 'ContractiveRecurrence', 'ContractiveTransformer', 'ConvergenceError',
    'ConvergenceWarning', 'DEQ', 'DEQTransformer', 'DiagonalGRUCell', 'DiagonalLSTMCell',
    'Equilibrium', 'EquilibriumBlock', 'EquilibriumGRUCell', 'EquilibriumRNN', 'Explicit',
    'FREEZERS', 'GATES', 'GradientRule', 'INJECTIONS', 'IRNN', 'IRNNCell', 'Implicit',
    'IncrementalCell', 'IncrementalResNet', 'IncrementalTransformer', 'InjectedAttention',
    'Injection', 'InputGate', 'InputRotation', 'IsometricCell', 'IsometricRNN', 'Lookup', 'MLP',
    'Modes', 'MonotoneConv', 'MonotoneLayer', 'MonotoneRecurrence', 'Neumann', 'Newton',
    'NewtonKrylov', 'Orthogonal', 'Packing', 'ParityChecks', 'Phantom', 'Picard', 'Point',
    'RECURRENCES', 'Recurrence', 'RecurrentBase', 'Rest', 'Reversible', 'RootBlock', 'RootIRNN',
    'Rotation', 'Shared', 'Sign', 'Solution', 'Solve', 'Solver', 'SolvingModule', 'StateGate',
    'Status', 'Stepwise', 'TRANSITIONS', 'Tanh', 'TanhCell', 'Tiles', 'Transformer', 'Transition',
    'Unrolled', 'VariationalDropout', 'WeightDropout', 'activation', 'affine_scan', 'answer_means',
    'attention_bias', 'basins', 'class_means', 'composed', 'contraction_factor', 'contractive',
    'conv_norm', 'depth_jacobian', 'equilibrium', 'euler_chain', 'fixed_point', 'forecast',
    'forward_backward_step', 'frozen', 'jacobian_penalty', 'last_solution', 'lyapunov',
    'make_contractive', 'make_transition', 'measure', 'modes', 'monotone', 'orthogonal_scan',
    'reflect', 'relative_residual', 'report', 'rest_points', 'ritz_values', 'root', 'rotation_scan',
    'safe_interval', 'sharpness', 'signed_scan', 'solve', 'spectral_abscissa', 'spectral_radius',
    'time_parallel', 'token_equilibrium', 'transition_errors',
]
