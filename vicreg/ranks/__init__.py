"""Where a rank meets another: the only place that knows `torch.distributed`.

Begin with `distributed.py`; gradients and batch norm over all ranks stand on it.
"""
