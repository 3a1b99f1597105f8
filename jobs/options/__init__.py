"""What is typed behind each command that needs torch, read without it; begin with `pretrain.py`."""
