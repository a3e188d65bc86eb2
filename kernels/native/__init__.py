"""The CPU path in C++: panels, grouped experts, products. It is one shared library behind ctypes."""
