"""What every test shares, doctests too."""

import torch.testing._internal.common_utils

# torch's own test helpers, which opcheck brings in, forbid the whole process to set flags of torch's
# backends, once, when they are imported. Lightning and `compare` set some and put them back.
torch.backends.disable_global_flags.__globals__["__allow_nonbracketed_mutation_flag"] = True
