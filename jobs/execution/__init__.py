"""What the commands do once their options are read, one file for each; begin with `pretrain.py`.

Their doors in jobs/ import them late: whoever asks for help, or mistypes, does not wait for torch.
"""
