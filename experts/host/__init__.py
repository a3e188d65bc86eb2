"""What a process has of its machine: memory, cores, threads, logs, files that change under way."""
