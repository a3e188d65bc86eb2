"""llama.cpp as a side of the benchmarks: our random checkpoints as GGUF files, and its own measuring programs."""
