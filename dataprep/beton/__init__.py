"""The file contract: what a beton is, read and checked without FFCV. The core imports this wing and no other.

Begin with `contract.py`.
"""
