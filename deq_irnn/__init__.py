__version__ = "0.2.0"

from .fixed_point import *
from .loop import *
from .solvers import *
from .implicit import *
from .wellposed import *
from .deq import *
from .scan import *
from .irnn import *
from .root_irnn import *
from .equilibrium_rnn import *
from .resnet import *
from .transformer import *
